"""A change of the CA, killed between any two writes, resumed, turned around: whatever a host shows, all trust it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploy.errors import FleetError
from deploy.procedures.pki import change, succession
from deploy.trust.authorities import STATE, Authorities, Phase, State
from deploy.trust.authority import Authority, Signer
from tests.unit.roll.fleets import FLEET
from tests.unit.trust.interrupting import each_write
from tests.unit.trust.keys import Operator, ssh_key

KEYS = cycle([rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(7)])


class Killed(BaseException):
    """kill -9, as the code sees it: nothing after it happens."""


@pytest.fixture(scope="module")
def ana(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return ssh_key(tmp_path_factory.mktemp("ana") / "ana", "-t", "ed25519")


class World:
    """The real files beside the inventory, and hosts of which only is known whom they trust and who signed for them."""

    def __init__(self, folder: Path, ana: Operator) -> None:
        self.folder, self.ana = folder, ana
        Authority.create(folder / "pki", "test", [ana.public], key_bits=2048)
        first = self.names()[0]
        self.trusts = {host.name: {first} for host in FLEET.hosts}
        self.shows = {host.name: first for host in FLEET.hosts}
        self.left = -1
        """Events until the controller is killed; negative: it lives."""

    def authorities(self) -> Authorities:
        return Authorities.load(self.folder / "pki")

    def names(self) -> list[str]:
        return [one.info.fingerprint for one in self.authorities().trusted]

    def event(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def safe(self) -> None:
        for host, shown in self.shows.items():
            for other, trusted in self.trusts.items():
                assert shown in trusted, f"{other} refuses {host}"

    def apply(self, opened: Any) -> None:
        """As apply does it, host after host; any of it may be the last."""
        wanted, issuer = opened.run.wanted, opened.run.keys.authorities.issuer.info.fingerprint
        for host in self.trusts:
            self.event()
            self.trusts[host] = wanted
            self.safe()
            self.event()
            self.shows[host] = issuer
            self.safe()
        self.event()

    @contextmanager
    def session(self, name: str, **options: object) -> Iterator[Any]:
        authorities = self.authorities()

        def unlock(authority: Authority) -> Signer:
            return authority.unlock(self.ana.identities)

        keys = SimpleNamespace(authorities=authorities, unlock=unlock, signer=lambda: unlock(authorities.issuer))
        run = SimpleNamespace(keys=keys, fleet=FLEET, targets={host.name for host in FLEET.hosts})

        def rethink() -> None:
            # What is desired is worked out once, as by the engine.
            run.wanted = {one.info.fingerprint for one in authorities.trusted}

        run.rethink = rethink
        rethink()
        yield SimpleNamespace(run=run)

    @contextmanager
    def running(self) -> Iterator[None]:
        with (
            mock.patch.object(change, "session", self.session),
            mock.patch.object(change, "prove", self.apply),
            each_write(self.event),
            mock.patch("deploy.trust.signing.rsa.generate_private_key", side_effect=lambda **_: next(KEYS)),
        ):
            yield

    def does(self, what: str, killed_after: int = -1) -> bool:
        """Whether it came to its end."""
        self.left = killed_after
        try:
            with self.running():
                if what == "apply":
                    with self.session("x") as opened:
                        self.apply(opened)
                else:
                    change.roll_ca("x", abort=what == "abort", stop_after=what.partition(" ")[2])
        except Killed:
            return False
        except FleetError as error:
            if what != "abort" or "no change under way" not in str(error):
                raise
        return True


OPERATIONS = st.tuples(
    st.sampled_from(["roll", "roll", "abort", "apply", "roll trust", "roll issue"]), st.integers(-1, 60)
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(OPERATIONS, max_size=6))
@example([("roll", 16), ("abort", 1), ("abort", -1)])
def test_whatever_happens_no_host_refuses_another(ana: Operator, operations: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), ana)
        for what, killed_after in operations:
            world.does(what, killed_after)
            world.safe()
            world.authorities()  # it loads
        began_with = world.authorities().state
        assert world.does("roll"), "and it can always be finished"
        state = world.authorities().state
        assert state.phase is None
        names = world.names()
        assert len(names) == 1
        assert all(trusted == set(names) for trusted in world.trusts.values())
        assert set(world.shows.values()) == set(names)
        if began_with.phase is not None:
            assert state.active == began_with.target


@pytest.mark.parametrize("left_out", [Phase.TRUST, Phase.ISSUE])
def test_with_a_phase_left_out_hosts_refuse_one_another(tmp_path: Path, ana: Operator, left_out: Phase) -> None:
    world = World(tmp_path, ana)
    after = State.proven

    def skipping(state: State) -> State:
        moved = after(state)
        return after(moved) if moved.phase is left_out else moved

    begun = State.begun
    first = (lambda state, target: after(begun(state, target))) if left_out is Phase.TRUST else begun
    with (
        mock.patch.object(State, "proven", skipping),
        mock.patch.object(State, "begun", first),
        pytest.raises(AssertionError, match="refuses"),
    ):
        world.does("roll")


@pytest.mark.parametrize("phase", ["trust", "issue"])
@pytest.mark.parametrize("killed_after", range(-1, 30, 3))
def test_an_abort_goes_back_from_every_phase(tmp_path: Path, ana: Operator, phase: str, killed_after: int) -> None:
    world = World(tmp_path, ana)
    before = world.names()
    assert world.does(f"roll {phase}")
    assert world.authorities().state.phase in {Phase.ISSUE, Phase.DROP}
    if not world.does("abort", killed_after) and world.authorities().state.target != ".":
        assert world.does("abort")
    else:
        world.does("roll") if world.authorities().state.phase else None
    assert world.names() == before
    assert set(world.shows.values()) == set(before)
    assert world.authorities().state.phase is None


def begun_and_aborted(world: World) -> None:
    """The controller dies in the phase trust when one host has it, and the abort of that as soon as it has turned."""
    with world.running(), mock.patch.object(change, "prove", side_effect=Killed), pytest.raises(Killed):
        change.roll_ca("x")
    assert not world.does("apply", 3)
    assert len({frozenset(trusted) for trusted in world.trusts.values()}) == 2
    world.left = -1
    with world.running(), mock.patch.object(change, "prove", side_effect=Killed), pytest.raises(Killed):
        change.roll_ca("x", abort=True)


def test_an_abort_of_an_abort_issues_nothing_that_a_host_refuses(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    begun_and_aborted(world)
    assert world.authorities().state.phase is Phase.DROP
    assert world.does("abort"), "and it ends with the change that was begun first"
    assert world.authorities().state.active == "ca-2"


def test_turned_to_the_phase_issue_it_does(tmp_path: Path, ana: Operator) -> None:
    def turned(state: State) -> State:
        return replace(state, active=state.target, target=state.active, phase=Phase.ISSUE)

    world = World(tmp_path, ana)
    with mock.patch.object(State, "back", turned):
        begun_and_aborted(world)
        with pytest.raises(AssertionError, match="refuses"):
            world.does("abort")


def test_a_second_change_takes_another_authority(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    seen = [*world.names()]
    for _ in range(3):
        assert world.does("roll")
        seen += world.names()
    assert len(set(seen)) == 4
    assert [path.name for path in sorted((tmp_path / "pki").glob("ca-*"))] == ["ca-2", "ca-3", "ca-4"]
    assert [one.info.fingerprint for one in world.authorities().every()] == seen


def test_the_order_of_the_two_is_the_same_in_every_phase(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    world.does("roll trust")
    first = world.authorities().bundle
    world.does("roll issue")
    world.does("abort", 3)
    assert world.authorities().bundle == first


def test_nothing_is_begun_by_who_cannot_open_the_key(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    world.ana = ssh_key(tmp_path / "eve", "-t", "ed25519")
    with world.running(), pytest.raises(FleetError, match="cannot decrypt"):
        change.roll_ca("x")
    assert not (tmp_path / "pki" / STATE).exists()
    assert not list((tmp_path / "pki").glob("ca-*"))


def test_there_is_nothing_to_abort(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    with world.running(), pytest.raises(FleetError, match="no change under way"):
        change.roll_ca("x", abort=True)


def test_an_authority_that_has_ended_is_replaced_at_once_and_is_no_way_back(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    with of_the_first_has_ended():
        with world.running(), mock.patch.object(change, "prove", side_effect=Killed), pytest.raises(Killed):
            change.roll_ca("x")
        assert world.authorities().state.phase is Phase.ISSUE
        with world.running(), pytest.raises(FleetError, match="has ended, expected an authority to go back to"):
            change.roll_ca("x", abort=True)


def of_the_first_has_ended() -> Any:
    return mock.patch.object(succession, "ended", lambda authority: authority.directory.name == "pki")


def test_an_apply_has_another_authority_issue_when_one_has_ended(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    first = world.names()[0]
    with world.running(), world.session("x") as opened:
        succession.succeed(opened.run)
        assert world.names() == [first], "it counts still"
        with of_the_first_has_ended():
            succession.succeed(opened.run)
            succession.succeed(opened.run)
    now = world.authorities()
    assert (now.state.phase, now.state.made) == (Phase.ISSUE, 2)
    assert now.issuer.info.fingerprint != first
    assert opened.run.wanted == {first, now.issuer.info.fingerprint}, "and hosts are told of it"
    with mock.patch.object(world, "safe"):  # nobody trusts anybody any more
        assert world.does("roll")
    assert world.names() == [now.issuer.info.fingerprint]


@pytest.mark.parametrize("goes_on", ["apply", "roll"])
def test_an_authority_that_ends_in_the_middle_of_a_change_is_followed_at_once(
    tmp_path: Path, ana: Operator, goes_on: str
) -> None:
    world = World(tmp_path, ana)
    with world.running(), mock.patch.object(change, "prove", side_effect=Killed), pytest.raises(Killed):
        change.roll_ca("x")
    assert world.authorities().state.phase is Phase.TRUST
    with world.running(), of_the_first_has_ended(), mock.patch.object(change, "prove", side_effect=Killed):
        if goes_on == "apply":
            with world.session("x") as opened:
                succession.succeed(opened.run)
        else:
            with pytest.raises(Killed):
                change.roll_ca("x")
    now = world.authorities().state
    assert (now.phase, now.target, now.made) == (Phase.ISSUE, "ca-2", 2), "to that one, not to a third"


def test_nothing_follows_an_authority_whose_key_is_elsewhere(tmp_path: Path, ana: Operator) -> None:
    world = World(tmp_path, ana)
    for name in ("ca.key.age", "ca.key.recipients"):
        (tmp_path / "pki" / name).unlink()
    (tmp_path / "pki/ca.offline").touch()
    with (
        world.running(), world.session("x") as opened, of_the_first_has_ended(),
        pytest.raises(FleetError, match="another machine"),
    ):  # fmt: skip
        succession.succeed(opened.run)
    assert not list((tmp_path / "pki").glob("ca-*"))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "no", '{"active": ".", "target": "", "phase": "issue", "renew": [], "made": 2, "version": 1}',
     '{"active": ".", "target": ".", "phase": "issue", "renew": [], "made": 2, "version": 1}',
     '{"active": ".", "target": "ca-2", "phase": "later", "renew": [], "made": 2, "version": 1}',
     '{"active": ".", "target": "", "phase": null, "renew": [], "made": 2, "version": 2}'],
)  # fmt: skip
def test_a_damaged_state_is_refused(tmp_path: Path, ana: Operator, text: str) -> None:
    world = World(tmp_path, ana)
    (tmp_path / "pki" / STATE).write_text(text)
    with pytest.raises(FleetError, match=r"state.json: found not a state of authorities"):
        world.authorities()
