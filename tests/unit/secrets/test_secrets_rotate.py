"""Rotations, killed between any two writes, resumed, turned around: every server takes what any client comes with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploy.errors import FleetError, FleetErrors
from deploy.model.observed import Answer
from deploy.model.profiles import REFERENCE
from deploy.model.resources import Parameter, Query
from deploy.model.secrets import Change, SecretSpec
from deploy.procedures.apply import Outcome
from deploy.procedures.roll import journal as journals
from deploy.procedures.roll import run as rolls
from deploy.procedures.roll.run import Rolled
from deploy.procedures.secrets import rotate
from deploy.procedures.secrets.rotate import Asked
from deploy.roles.mysql_members import SERVER_QUERY
from deploy.trust.rotation import Entry, Phase
from deploy.trust.vault import Vault
from tests.unit.roll.fleets import FLEET
from tests.unit.trust.interrupting import each_write
from tests.unit.trust.keys import Operator, ssh_key

SPECS = {
    "redis/app": SecretSpec("password"),
    "mysql/app": SecretSpec("password"),
    "rabbitmq/cookie": SecretSpec("cookie", change=Change.STOP, why="one cookie", unit="rabbitmq-server.service"),
    "upstream/grader": SecretSpec("hex", change=Change.AT_ONCE, why="one value"),
    "upstream/salt": SecretSpec("hex", change=Change.NEVER, why="hashes"),
    "monitoring/mail": SecretSpec("password", change=Change.ISSUED, why="the relay's"),
}
PHASED = ("mysql/app", "redis/app")


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Killed(BaseException):
    """kill -9, as the code sees it: nothing after it happens."""


@pytest.fixture(scope="module")
def ana(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return ssh_key(tmp_path_factory.mktemp("ana") / "ana", "-t", "ed25519")


class World:
    """The real vault, and hosts of which only is known what their servers take and their clients come with.

    On each host a server and a client whom apply gives another value, and a client that only a restart does.
    """

    def __init__(self, folder: Path, ana: Operator) -> None:
        self.folder, self.ana = folder, ana
        vault = Vault.create(folder / "secrets.age", [ana.public])
        vault.ensure(SPECS)
        vault.save()
        self.last = b"", vault
        hosts = [host.name for host in FLEET.hosts]
        now = self.used()
        self.takes = {host: {name: {value} for name, value in now.items()} for host in hosts}
        self.hot = {host: dict(now) for host in hosts}
        self.restarted = {host: dict(now) for host in hosts}
        self.rolling: str | None = None
        """Who began the roll that has not ended."""
        self.left = -1
        """Events until the controller is killed; negative: it lives."""
        self.broken = ""
        """A host whose servers do not take what they are told, though they say so."""

    def vault(self) -> Vault:
        return Vault.open(self.folder / "secrets.age", self.ana.identities)

    def read(self) -> Vault:
        """To read in alone; opened once for each content."""
        content = (self.folder / "secrets.age").read_bytes()
        if self.last[0] != content:
            self.last = content, self.vault()
        return self.last[1]

    def used(self) -> dict[str, str]:
        return {name: self.read().get(name).reveal() for name in PHASED}

    def event(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def safe(self) -> None:
        for clients in (self.hot, self.restarted):
            for client, values in clients.items():
                for server, takes in self.takes.items():
                    for name, value in values.items():
                        assert value in takes[name], f"{server} refuses {client} with {name}"

    def wanted(self) -> dict[str, set[str]]:
        return {name: {one.value for one in self.read().accepted(name)} for name in PHASED}

    def owed(self) -> list[str]:
        used = self.used()
        return [host for host, values in self.restarted.items() if values != used]

    def differs(self) -> list[str]:
        wanted, used = self.wanted(), self.used()
        return [host for host in self.takes if self.takes[host] != wanted or self.hot[host] != used]

    def apply(self, opened: Any) -> Outcome:
        """Host after host; any of it may be the last."""
        if self.rolling:
            raise FleetError(subject="roll", found="one that has hosts in hand", expected="none")
        wanted, used = self.wanted(), self.used()
        for host in self.takes:
            for name in PHASED:
                self.event()
                if host != self.broken:
                    self.takes[host] = {**self.takes[host], name: wanted[name]}
                self.safe()
                self.event()
                self.hot[host] = {**self.hot[host], name: used[name]}
                self.safe()
        self.event()
        return Outcome((), tuple(self._pending()), ())

    def _pending(self) -> list[Any]:
        return [self._step(host, pending=True) for host in self.owed()]

    def _step(self, host: str, *, pending: bool) -> Any:
        return SimpleNamespace(host=host, key="unit", summary="differs", pending=pending, waits="restart pending")

    def roll(self, opened: Any, options: Any, say: Any) -> Rolled:
        self.event()
        self.rolling = options.doing
        used = self.used()
        for host in self.owed():
            self.event()
            self.restarted[host] = used
            self.safe()
        self.event()
        self.rolling = None
        return Rolled("done")

    def keys(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(vault=self.vault())

    def unfinished(self, _path: Path) -> dict[str, str] | None:
        return {"doing": self.rolling, "at": "now"} if self.rolling else None

    @contextmanager
    def session(self, name: str, **options: object) -> Iterator[Any]:
        vault = self.vault()

        def plan() -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = {host: [self._step(host, pending=False)] for host in self.differs()}
            for step in self._pending():
                found.setdefault(step.host, []).append(step)
            return found

        run = SimpleNamespace(
            keys=SimpleNamespace(vault=vault), fleet=FLEET, targets={host.name for host in FLEET.hosts}, snapshots={},
            live=SimpleNamespace(leaders={}), plan=plan, look_all=lambda: self.event(),
        )  # fmt: skip
        yield SimpleNamespace(run=run, path=self.folder)

    @contextmanager
    def running(self) -> Iterator[None]:
        with (
            mock.patch.object(rotate, "session", self.session),
            mock.patch.object(rotate, "apply_fleet", self.apply),
            mock.patch.object(rotate, "folder", return_value=self.folder),
            mock.patch.object(rotate, "load", return_value=(None, SimpleNamespace(profile=REFERENCE))),
            mock.patch.object(rotate, "secret_specs", return_value=SPECS),
            mock.patch.object(rotate, "open_keys", self.keys),
            mock.patch.object(rolls, "roll", self.roll),
            mock.patch.object(rolls, "resume", self.roll),
            mock.patch.object(journals, "unfinished", self.unfinished),
            each_write(self.event),
        ):
            yield

    def does(self, what: str, killed_after: int = -1) -> bool:
        """Whether it came to its end."""
        self.left = killed_after
        word, _, rest = what.partition(" ")
        try:
            with self.running():
                match word:
                    case "apply":
                        with self.session("x") as opened:
                            self.apply(opened)
                    case "abort":
                        rotate.rotate("x", abort=True)
                    case "go":
                        rotate.rotate("x", stop_after=rest)
                    case _:
                        rotate.rotate("x", Asked((word,)), stop_after=rest)
        except Killed:
            return False
        except FleetError as error:
            excuses = ("no change under way", "has hosts in hand", "steps in all")
            if not any(excuse in str(error) for excuse in excuses):
                raise
        finally:
            self.left = -1
        return True

    def ends(self) -> None:
        """Whatever is under way is brought to its end."""
        for _ in range(3):
            if not (self.vault().changing() or self.rolling or self.owed() or self.differs()):
                return
            if self.rolling or self.vault().changing():
                assert self.does("go")
            else:
                self.does("apply")
                self.restarted = {host: self.used() for host in self.restarted}
        raise AssertionError("it does not come to its end")


OPERATIONS = st.tuples(
    st.sampled_from(
        ["redis/app", "mysql/app", "go", "go", "abort", "apply", "redis/app accept", "mysql/app use", "redis/app drop"]
    ),
    st.integers(-1, 70),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(OPERATIONS, max_size=6))
@example([("redis/app", 3), ("abort", 3), ("abort", -1)])
def test_whatever_happens_no_server_refuses_a_client(ana: Operator, operations: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        world = World(Path(folder), ana)
        for what, killed_after in operations:
            world.does(what, killed_after)
            world.safe()
            world.vault()  # it opens
        world.ends()
        used = world.used()
        assert all(takes == {name: {value} for name, value in used.items()} for takes in world.takes.values())
        assert all(values == used for values in (*world.hot.values(), *world.restarted.values()))


@pytest.mark.parametrize("left_out", [Phase.ACCEPT, Phase.USE])
def test_with_a_phase_left_out_clients_are_refused(tmp_path: Path, ana: Operator, left_out: Phase) -> None:
    world = World(tmp_path, ana)
    after, begun = Entry.proven, Entry.begun

    def skipping(entry: Entry) -> Entry:
        moved = after(entry)
        return after(moved) if moved.phase is left_out else moved

    first = (lambda *given: after(begun(*given))) if left_out is Phase.ACCEPT else begun
    with (
        mock.patch.object(Entry, "proven", skipping),
        mock.patch.object(Entry, "begun", first),
        pytest.raises(AssertionError, match="refuses"),
    ):
        world.does("redis/app")


def test_without_the_proof_clients_are_refused(tmp_path: Path, ana: Operator) -> None:
    """The twin: a host that was not told is found by what it has, and the next phase is not begun."""
    world = World(tmp_path, ana)
    world.broken = "data2"
    with world.running(), pytest.raises(FleetErrors, match="the phase to be in force on every host"):
        rotate.rotate("x", Asked(("redis/app",)))
    assert world.vault().changing() == {"redis/app": Phase.ACCEPT}
    with mock.patch.object(rotate, "_owed", return_value=()), pytest.raises(AssertionError, match="data2 refuses"):
        world.does("go")


@pytest.mark.parametrize("phase", ["accept", "use"])
@pytest.mark.parametrize("killed_after", range(-1, 40, 4))
def test_an_abort_goes_back_from_every_phase(tmp_path: Path, ana: Operator, phase: str, killed_after: int) -> None:
    world = World(tmp_path, ana)
    before = world.used()
    assert world.does(f"redis/app {phase}")
    assert world.vault().changing() == {"redis/app": Phase.USE if phase == "accept" else Phase.DROP}
    aborted = world.does("abort", killed_after)
    turned = world.vault().entry("redis/app").target
    back = turned is None or turned.turn == 0
    if not aborted and not back:
        assert world.does("abort")
    world.ends()
    assert world.used() == before


def test_all_secrets_go_together_and_the_others_are_named(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    before = {name: world.vault().get(name) for name in SPECS}
    said: list[str] = []
    with world.running():
        found = rotate.rotate("x", Asked(everything=True), tell=said.append)
    assert set(found.changed) == set(PHASED)
    assert set(found.untouched) == set(SPECS) - set(PHASED)
    assert found.left == {}
    assert [line.split(":")[0] for line in said if "proven on" in line] == ["accept", "use", "drop"]
    assert {name for name in SPECS if world.vault().get(name) != before[name]} == set(PHASED)
    assert not any(value.reveal() in line for line in said for value in world.vault().values())


def test_a_second_one_begins_while_another_is_under_way(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    assert world.does("redis/app accept")
    assert world.does("mysql/app accept")
    assert world.vault().changing() == {"mysql/app": Phase.USE, "redis/app": Phase.DROP}
    world.ends()


@pytest.mark.parametrize("name", ["rabbitmq/cookie", "upstream/grader", "upstream/salt", "monitoring/mail"])
def test_what_cannot_be_changed_in_phases_says_why(tmp_path: Path, ana: Operator, name: str) -> None:
    world = World(tmp_path, ana)
    with world.running(), pytest.raises(FleetError, match=SPECS[name].why):
        rotate.rotate("x", Asked((name,)))
    assert world.vault().changing() == {}


def test_what_interrupts_is_changed_when_that_is_wanted(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    before = world.vault().get("upstream/grader")
    with world.running():
        found = rotate.rotate("x", Asked(("upstream/grader",), interrupt=True))
    assert found.changed == ("upstream/grader",)
    assert world.vault().get("upstream/grader") != before
    with world.running(), pytest.raises(FleetError, match="never"):
        rotate.rotate("x", Asked(("upstream/salt",), interrupt=True))


@pytest.mark.parametrize("runs", [True, False])
def test_a_cookie_waits_until_every_broker_is_stopped(tmp_path: Path, ana: Operator, runs: bool) -> None:
    world = World(tmp_path, ana)
    session = world.session

    @contextmanager
    def with_units(name: str, **options: object) -> Iterator[Any]:
        with session(name, **options) as opened:
            opened.run.snapshots = {"data1": SimpleNamespace(units={"rabbitmq-server.service": Unit(runs)}, answers={})}
            yield opened

    before = world.vault().get("rabbitmq/cookie")
    with world.running(), mock.patch.object(rotate, "session", with_units):
        if runs:
            with pytest.raises(FleetError, match="it runs, expected it to be stopped"):
                rotate.rotate("x", Asked(("rabbitmq/cookie",), interrupt=True))
        else:
            assert rotate.rotate("x", Asked(("rabbitmq/cookie",), interrupt=True)).changed == ("rabbitmq/cookie",)
    assert (world.vault().get("rabbitmq/cookie") == before) == runs


class Unit:
    def __init__(self, running: bool) -> None:
        self.running = running


def test_it_begins_on_a_fleet_that_is_as_its_inventory_says(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    world.takes["data3"]["redis/app"] = set()
    with world.running(), pytest.raises(FleetError, match="a fleet that is as its inventory says"):
        rotate.rotate("x", Asked(("redis/app",)))
    assert world.vault().changing() == {}


def test_anothers_roll_is_anothers(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    world.rolling = "fleet roll"
    with world.running(), pytest.raises(FleetError, match="--resume or --abort"):
        rotate.rotate("x", Asked(("redis/app",)))


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        (Asked(), {}, "no change under way, and no name"),
        (Asked(exposed=True), {}, "no secret to change"),
        (Asked(), {"abort": True}, "no change under way"),
        (Asked(("redis/app",)), {"abort": True}, "nothing else"),
        (Asked(), {"stop_after": "trust"}, "accept, use, drop"),
        (Asked(("redis/none",)), {}, "no role knows"),
    ],
)
def test_refusals(tmp_path: Path, ana: Operator, asked: Asked, options: dict[str, Any], words: str) -> None:
    world = World(tmp_path, ana)
    with world.running(), pytest.raises(FleetError, match=words):
        rotate.rotate("x", asked, **options)


def test_what_a_former_operator_knows_is_changed_once(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    vault = world.vault()
    vault.remove("bob")
    vault.save()
    assert world.vault().known_to("redis/app") == ("bob",)
    with world.running():
        found = rotate.rotate("x", Asked(exposed=True))
    assert set(found.changed) == set(PHASED)
    assert world.vault().known_to("redis/app") == ()
    assert world.vault().known_to("monitoring/mail") == ("bob",), "that is somebody else's to change"
    with world.running(), pytest.raises(FleetError, match="no secret to change"):
        rotate.rotate("x", Asked(exposed=True))


def test_what_a_former_operator_knows_is_changed_by_whoever_goes_on(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    vault = world.vault()
    vault.remove("bob")
    vault.save()
    world.left = 20
    with world.running(), pytest.raises(Killed):
        rotate.rotate("x", Asked(exposed=True))
    assert world.vault().changing() != {}
    world.left = -1
    with world.running():
        assert set(rotate.rotate("x", Asked(exposed=True)).changed) == set(PHASED)
    assert world.vault().known_to("redis/app") == ()


def test_what_was_under_way_when_an_operator_left_is_changed_once_more(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    assert world.does("redis/app accept")
    vault = world.vault()
    next_one = vault.get("redis/app")
    vault.remove("bob")
    vault.save()
    with world.running():
        assert set(rotate.rotate("x", Asked(exposed=True)).changed) == set(PHASED)
    assert world.vault().get("redis/app") != next_one
    assert world.vault().entry("redis/app").value.turn == 2
    assert world.vault().known_to("redis/app") == ()


def test_a_phase_is_proven_on_the_databases_replicas_too(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    session, looks = world.session, [0]
    account = Parameter(query=Query(SERVER_QUERY, ""), name="account grader@10.0.0.31", want="password as declared")

    @contextmanager
    def with_database(name: str, **options: object) -> Iterator[Any]:
        with session(name, **options) as opened:
            run = opened.run

            def look(host: str) -> None:
                looks[0] += 1
                run.snapshots[host].answers[SERVER_QUERY].values[account.name] = "password as declared"

            run.live.leaders = {"mysql": "data1"}
            run.state = lambda _: SimpleNamespace(resources=(account,))
            run.look = look
            says = {"data1": "password as declared", "data2": "another password", "data3": "password as declared"}
            run.snapshots = {
                host: SimpleNamespace(answers={SERVER_QUERY: Answer({account.name: said})}, units={})
                for host, said in says.items()
            }
            yield opened

    with world.running(), mock.patch.object(rotate, "session", with_database):
        with mock.patch.object(rotate, "REPLICATED_SECONDS", 0), pytest.raises(FleetErrors, match=r"data2: .*another"):
            rotate.rotate("x", Asked(("mysql/app",)))
        assert world.vault().changing() == {"mysql/app": Phase.ACCEPT}
        with mock.patch("time.sleep"):
            rotate.rotate("x")
    assert looks[0] > 0
