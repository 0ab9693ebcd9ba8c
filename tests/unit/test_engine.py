"""Look, parse and compare: pure, so a recorded answer is a test."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.converge import compare, guard, look, shell
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model import resources as want
from deploy.model.catalog import SERVICES
from deploy.model.observed import Answer, FileState, HostFactsSeen, PackageState, Snapshot, UnitState
from deploy.model.resources import StepClass, Waiver
from deploy.model.settings import Settings
from deploy.model.units import parse_size, show_size

FACTS = HostFactsSeen("debian", "12", 2**33, 2**33)
CONF = want.File(path="/etc/x.conf", content="a\n")


def snapshot(**parts: object) -> Snapshot:
    return Snapshot("h", FACTS, **parts)  # type: ignore[arg-type]


def steps(
    *resources: want.Resource, seen: Snapshot, waivers: tuple[Waiver, ...] = ()
) -> list[tuple[str, StepClass, bool]]:
    state = want.HostState("h", resources, waivers)
    return [(step.key, step.step, step.pending) for step in compare.steps(state, seen, "")]


def same(file: want.File) -> FileState:
    return FileState("file", file.owner, file.group, file.mode, file.sha256)


def unit(active: str = "active", stamps: dict[str, str] | None = None, file_state: str = "enabled") -> UnitState:
    return UnitState("loaded", active, "running", file_state, False, 1, 1, stamps or {})


def test_nothing_differs() -> None:
    assert steps(CONF, seen=snapshot(files={CONF.path: same(CONF)})) == []


@pytest.mark.parametrize(
    "state",
    [
        FileState("file", "root", "root", 0o644, "0" * 64),
        FileState("file", "daemon", "root", 0o644, CONF.sha256),
        FileState("file", "root", "root", 0o666, CONF.sha256),
        FileState("symbolic link", "root", "root", 0o777),
    ],
)
def test_file_that_differs(state: FileState) -> None:
    assert steps(CONF, seen=snapshot(files={CONF.path: state})) == [("file:/etc/x.conf", StepClass.WRITE, False)]


def test_waived_is_left_out() -> None:
    assert steps(CONF, seen=snapshot(), waivers=(Waiver("file:/etc/*", "because of a test"),)) == []


def test_package_held_or_missing() -> None:
    package = want.Package(name="p")
    assert steps(package, seen=snapshot())[0][1] is StepClass.CREATE
    held = snapshot(packages={"p": PackageState("1", True, True)})
    assert steps(package, seen=held) == [("package:p", StepClass.WRITE, False)]
    assert steps(package, seen=snapshot(packages={"p": PackageState("1", True, False)})) == []


def test_a_changed_file_announces_the_restart_it_will_cost() -> None:
    service = want.Unit(name="x.service", restart_files=(CONF.path,), rolling=True)
    old = snapshot(
        files={CONF.path: FileState("file", "root", "root", 0o644, "0" * 64)},
        units={"x.service": unit(stamps={CONF.path: "0" * 64})},
    )
    assert steps(CONF, service, seen=old) == [
        ("file:/etc/x.conf", StepClass.WRITE, False),
        ("unit:x.service", StepClass.RESTART, True),
    ]


def test_debt_is_known_from_the_host_alone() -> None:
    """A controller that died between write and restart: file right, unit has loaded another."""
    service = want.Unit(name="x.service", restart_files=(CONF.path,), rolling=True)
    seen = snapshot(files={CONF.path: same(CONF)}, units={"x.service": unit(stamps={CONF.path: "0" * 64})})
    assert steps(CONF, service, seen=seen) == [("unit:x.service", StepClass.RESTART, True)]


def test_first_start_is_no_restart() -> None:
    service = want.Unit(name="x.service", restart_files=(CONF.path,), rolling=True)
    seen = snapshot(files={CONF.path: same(CONF)}, units={"x.service": unit("inactive")})
    assert steps(CONF, service, seen=seen) == [("unit:x.service", StepClass.CREATE, False)]


def test_parameter_of_a_service_that_does_not_run_yet() -> None:
    query = want.Query("q", "true", "x.service")
    taken = want.Parameter(query=query, name="n", want="1", at_start=True)
    made = want.Parameter(query=query, name="m", want="1", act="true")
    seen = snapshot(answers={"q": Answer({}, "refused")})
    assert steps(taken, made, seen=seen) == [("q:m", StepClass.CREATE, False)]


def test_parameter_that_only_a_restart_brings_is_pending() -> None:
    item = want.Parameter(query=want.Query("q", "true"), name="n", want="1", step=StepClass.RESTART)
    assert steps(item, seen=snapshot(answers={"q": Answer({"n": "2"})})) == [("q:n", StepClass.RESTART, True)]


def test_stray_names_are_removed_one_by_one() -> None:
    only = want.Only(query=want.Query("q", "true"), prefix="user ", names=frozenset({"user a"}), act="drop")
    seen = snapshot(answers={"q": Answer({"user a": "x", "user eve": "x", "other": "x"})})
    assert steps(only, seen=seen) == [("q:user eve", StepClass.WRITE, False)]


def test_secrets_are_not_in_steps() -> None:
    item = want.Parameter(query=want.Query("q", "true"), name="n", want="hunter2", act="set hunter2", secret=True)
    file = want.File(path="/s", content="hunter2", secret=True)
    state = want.HostState("h", (item, file))
    found = compare.steps(state, snapshot(answers={"q": Answer({"n": "old-secret"})}), "")
    assert "hunter2" not in repr(found)
    assert "old-secret" not in "".join(step.summary + step.before + step.after for step in found)


RESOURCES = (
    want.Package(name="dash"),
    want.File(path="/etc/passwd"),
    want.Directory(path="/etc"),
    want.Link(path="/nonexistent", target="x"),
    want.Account(name="daemon"),
    want.Parameter(query=want.Query("ok", "printf 'a\\tb c\\n'"), name="a", want="b c"),
    want.Parameter(query=want.Query("bad", "echo no reason; false; printf 'a\\tb\\n'"), name="a", want="b"),
)


def answer(resources: tuple[want.Resource, ...], nonce: str = "n0") -> list[str]:
    """What this machine says; the lock is left out, as it is root's."""
    script = look.script(resources, nonce)
    lines = [line for line in script.splitlines() if look.ACT_LOCK not in line and not line.startswith("flock")]
    done = subprocess.run(["sh", "-s"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=True)
    return done.stdout.splitlines()


def test_the_script_and_the_parser_understand_each_other() -> None:
    seen = look.parse("h", answer(RESOURCES), "n0", RESOURCES)
    assert seen.packages["dash"].installed
    assert seen.files["/etc/passwd"].kind == "file"
    assert len(seen.files["/etc/passwd"].sha256) == 64
    assert seen.files["/etc"].kind == "directory"
    assert "/nonexistent" not in seen.files
    assert seen.accounts["daemon"].shell == "/usr/sbin/nologin"
    assert seen.answers["ok"].values == {"a": "b c"}
    assert not seen.answers["bad"].ok
    assert seen.answers["bad"].error == "no reason"
    assert seen.facts.memory > 2**28


def test_an_answer_that_breaks_off_is_an_error() -> None:
    lines = answer(RESOURCES)
    for length in range(len(lines) - 1):
        with pytest.raises(FleetError, match="breaks off"):
            look.parse("h", lines[:length], "n0", RESOURCES)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30), max_size=20))
def test_no_value_can_imitate_the_marks(values: list[str]) -> None:
    lines = ["@@n0 query q", *(f"k{n}\t{value}" for n, value in enumerate(values)), "@@n0 rc 0", "@@n0 end"]
    query = want.Parameter(query=want.Query("q", "x"), name="a", want="b")
    seen = look.parse("h", lines, "n0", (query,))
    assert seen.answers["q"].values == {f"k{n}": value for n, value in enumerate(values)}


def test_a_batch_stops_at_the_step_that_fails() -> None:
    def step(name: str, script: str) -> Step:
        return Step(host="h", resource=want.Directory(path=name), step=StepClass.WRITE, summary="", script=script)

    text = shell.batch([step("/a", "echo one"), step("/b", "echo why; false; echo never"), step("/c", "echo three")])
    lines = [line for line in text.splitlines() if look.ACT_LOCK not in line and not line.startswith("flock")]
    done = subprocess.run(["sh", "-s"], input="\n".join(lines) + "\n", text=True, capture_output=True, check=False)
    failed = shell.failure(done.stdout.splitlines())
    assert failed == shell.Failure("directory:/b", "why")
    assert "three" not in done.stdout


@given(st.integers(min_value=0, max_value=2**50))
def test_sizes_survive_being_shown(size: int) -> None:
    assert parse_size(show_size(size)) == size


def test_defaults_are_the_specs() -> None:
    """The literal values of the spec's own text."""
    settings = Settings()
    assert (settings.redis.maxmemory, settings.redis.maxmemory_policy) == (2 * 1024**3, "allkeys-lru")
    assert (settings.redis.tcp_keepalive, settings.redis.appendonly) == (300, True)
    assert settings.rabbitmq.vm_memory_high_watermark == 0.6
    assert settings.rabbitmq.disk_free_limit == 2 * 10**9
    assert settings.rabbitmq.channel_max == 2000
    assert settings.rabbitmq.user == "omegaup"
    assert (settings.trust.authority_bits, settings.trust.authority_days) == (4096, 365)
    assert (settings.trust.key_type, settings.trust.leaf_days) == ("rsa2048", 365)


def test_ports_are_the_specs() -> None:
    ports = {
        "frontend": 80, "grader": 21680, "gitserver": 33861, "broadcaster": 32672, "mysql": 3306, "redis": 6379,
    }  # fmt: skip
    assert {name: SERVICES[name].ports[0].number for name in ports} == ports
    assert SERVICES["rabbitmq"].port("amqp").number == 5672
    assert SERVICES["rabbitmq"].port("management").number == 15672


@pytest.mark.parametrize(
    ("service", "row", "times"),
    [("mysql", 0, (10, 5, 3)), ("redis", 0, (10, 5, 3)), ("redis", 1, (10, 5, 3)), ("rabbitmq", 0, (30, 10, 3))],
)
def test_health_checks_are_as_often_as_the_specs(service: str, row: int, times: tuple[int, int, int]) -> None:
    """Interval, timeout, retries."""
    health = SERVICES[service].health[row]
    assert (health.interval, health.timeout, health.retries) == times


@pytest.mark.parametrize(("text", "size"), [("2gb", 2**31), ("512M", 2**29), ("64k", 65536), ("17", 17), (9, 9)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_the_way_back_is_one_word_without_semicolons() -> None:
    """systemd keeps it in a file and reads that back at a daemon-reload, where a semicolon ends a command."""
    unit = want.Unit(name="x.service", guard="if true; then echo 'back'; fi")
    script = guard.armed(Step(host="h", resource=unit, step=StepClass.RELOAD, summary="", script="true"))
    line = next(line for line in script.splitlines() if line.startswith("systemd-run"))
    assert ";" not in line
    command = line.partition("/bin/sh -c ")[2].removesuffix(" 9>&-").strip("'")
    assert subprocess.run(["sh", "-c", command], text=True, capture_output=True, check=True).stdout == "back\n"
