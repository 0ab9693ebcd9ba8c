"""The audit trail: what is written, where, in which order, and what is shown of it. The shell is run, as no host's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.converge import audit
from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model import records
from deploy.model.records import UNFINISHED, parse
from deploy.model.resources import File, HostState, Phase, StepClass, Unit
from deploy.procedures import audit as reading
from deploy.procedures.session import ended
from deploy.trust.masking import Masker

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Hosts:
    """What is told to hosts; a host in `broken` takes nothing."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}
        self.broken: set[str] = set()

    def __call__(self, host: str, script: str) -> None:
        if host in self.broken:
            raise FleetError(host=host, subject="audit", found="no space left", expected="a line")
        self.lines.setdefault(host, []).append(script)


def begun(folder: Path, hosts: Hosts, **more: Any) -> audit.Trail:
    return audit.Trail(folder, "fleet apply", hosts, arguments=("apply", "lab"), **more)


def own(folder: Path) -> list[dict[str, Any]]:
    return parse(audit.own(folder, ""))


def test_a_run_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    hosts = Hosts()
    begun(tmp_path, hosts).end("done")
    assert hosts.lines == {}
    assert list(tmp_path.iterdir()) == []


def test_the_beginning_is_written_before_the_change_and_outlives_a_controller_that_dies(tmp_path: Path) -> None:
    hosts = Hosts()
    begun(tmp_path, hosts).touch("data1")
    assert len(hosts.lines["data1"]) == 1
    (found,) = reading.gather(["data1"], audit.own(tmp_path, ""), "", lambda *_: []).records
    assert found.outcome == UNFINISHED
    assert found.command == "fleet apply (apply lab)"
    assert found.who
    assert found.revision


def test_each_step_is_on_the_controllers_disk_when_it_is_done(tmp_path: Path) -> None:
    trail = begun(tmp_path, Hosts())
    trail.touch("data1")
    trail.did("data1", [{"key": "file:/etc/x", "sha256": "0" * 64}])
    (found,) = reading.gather(["data1"], audit.own(tmp_path, ""), "", lambda *_: []).records
    assert [step["key"] for step in found.steps] == ["file:/etc/x"]
    trail.end("stopped")
    (found,) = reading.gather(["data1"], audit.own(tmp_path, ""), "", lambda *_: []).records
    assert (found.outcome, len(found.steps)) == ("stopped", 1)


def test_a_host_that_cannot_write_is_changed_all_the_same_and_that_is_written_down(tmp_path: Path) -> None:
    hosts = Hosts()
    hosts.broken = {"data1"}
    trail = begun(tmp_path, hosts)
    trail.touch("data1")
    trail.touch("data2")
    trail.end("done")
    assert own(tmp_path)[-1]["unwritten"] == {"data1": "no space left"}


def test_a_connection_that_is_gone_hides_neither_the_end_nor_the_outcome(tmp_path: Path) -> None:
    def gone(host: str, script: str) -> None:
        raise AttributeError("no client")

    trail = audit.Trail(tmp_path, "fleet apply", gone)
    trail.touch("data1")
    trail.end("done")
    assert own(tmp_path)[-1]["outcome"] == "done"
    assert "AttributeError" in own(tmp_path)[-1]["unwritten"]["data1"]


def test_without_a_trail_on_the_controller_nothing_may_be_changed(tmp_path: Path) -> None:
    hosts = Hosts()
    with pytest.raises(FleetError, match="audit trail beside the inventory"):
        begun(tmp_path / "gone", hosts).touch("data1")
    assert hosts.lines == {}


def test_a_host_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    hosts = Hosts()
    trail = begun(tmp_path, hosts)
    trail.touch("data1", tell=False)
    trail.end("done")
    assert hosts.lines == {}
    assert [line["event"] for line in own(tmp_path)] == ["begin", "did", "end"]


def test_hashes_of_files_but_not_of_those_with_secrets() -> None:
    def told(file: File) -> dict[str, Any]:
        return audit.described(Step(host="h", resource=file, step=StepClass.WRITE, summary="content"))

    plain = File(path="/etc/x", content="hello")
    assert told(plain)["sha256"] == plain.sha256
    assert "sha256" not in told(File(path="/etc/x", content="hunter22", secret=True))
    assert "sha256" not in told(File(path="/etc/x", absent=True))
    assert "hunter22" not in str(told(File(path="/etc/x", content="hunter22", secret=True)))


def test_secrets_are_masked_wherever_they_come_in(tmp_path: Path) -> None:
    hosts = Hosts()
    trail = audit.Trail(tmp_path, "fleet apply", hosts, Masker(["hunter22"]), arguments=("--x", "hunter22"))
    trail.touch("data1")
    trail.did("data1", [{"key": "user hunter22", "summary": "hunter22 -> x"}])
    trail.end("failed: found hunter22")
    assert "hunter22" not in (tmp_path / records.CONTROLLER_FILE).read_text()
    assert "hunter22" not in str(hosts.lines)


def test_the_controllers_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CONTROLLER_BYTES", 300)
    for _ in range(12):
        trail = begun(tmp_path, Hosts())
        trail.touch("data1")
        trail.end("done")
    assert len(list(tmp_path.iterdir())) == records.KEPT + 1
    times = [line["at"] for line in own(tmp_path)]
    assert times == sorted(times)


# -- the host's shell --------------------------------------------------------------------------------------------


def told(folder: Path, *scripts: str) -> list[str]:
    """The lines that these leave in a folder that stands for the host's."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in (("chown", "exit 0"), ("logger", f'echo "$@" >>{folder}/journal')):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    for script in scripts:
        text = script.replace(records.HOST_FOLDER, f"{folder}/log").replace(
            "install -d", "mkdir -p ignored; install -d"
        )
        done = subprocess.run(
            ["sh", "-eu"], input=f"PATH={folder}/bin:$PATH\ncd {folder}\nmkdir -p {folder}/log\n{text}\n",
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["sh", "-eu"], input=audit.reading("").replace(records.HOST_FOLDER, f"{folder}/log"), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "end"
    return done.stdout.splitlines()[:-1]


TEXT = st.text(max_size=60)


@settings(max_examples=20)
@given(texts=st.lists(TEXT, min_size=1, max_size=2))
def test_what_is_told_is_what_is_read(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("host")
    lines = [{"at": audit.now(), "run": "r", "event": "begin", "who": text} for text in texts]
    found = parse(told(folder, *(audit.script(line, "words") for line in lines)))
    assert [one["who"] for one in found] == texts
    assert all("login" in one for one in found)
    assert (folder / "log" / "audit.jsonl").stat().st_mode & 0o777 == records.HOST_MODE


def test_a_line_that_was_cut_off_spoils_none_after_it(tmp_path: Path) -> None:
    line = {"at": audit.now(), "run": "r", "event": "begin"}
    told(tmp_path, audit.script(line, "words"))
    with (tmp_path / "log/audit.jsonl").open("a") as handle:
        handle.write('{"at": "2026-')
    assert len(parse(told(tmp_path, audit.script(line, "words")))) == 2


def test_the_hosts_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "HOST_BYTES", 100)
    lines = [{"at": f"{n:024}", "run": f"r{n}", "event": "begin", "who": "x" * 100} for n in range(12)]
    found = parse(told(tmp_path, *(audit.script(line, "words") for line in lines)))
    assert len(list((tmp_path / "log").iterdir())) == records.KEPT + 1
    assert [one["run"] for one in found] == [f"r{n}" for n in range(12)][-records.KEPT - 1 :]


def test_a_host_reads_from_a_moment_on(tmp_path: Path) -> None:
    for at in ("2026-01-01T00:00:00.000Z", "2026-02-01T00:00:00.000Z"):
        told(tmp_path, audit.script({"at": at, "run": at, "event": "begin"}, "words"))
    script = audit.reading("2026-01-15T00:00:00.000Z").replace(records.HOST_FOLDER, f"{tmp_path}/log")
    done = subprocess.run(["sh", "-eu"], input=script, text=True, capture_output=True, check=True)
    assert [one["run"] for one in parse(done.stdout.splitlines())] == ["2026-02-01T00:00:00.000Z"]


# -- reading -----------------------------------------------------------------------------------------------------


def line(at: str, run: str, event: str, **more: Any) -> dict[str, Any]:
    return {"at": at, "run": run, "event": event, **more}


def test_both_sides_make_one_record_in_order_of_time() -> None:
    head = {"command": "fleet apply", "who": "ana", "origin": "laptop", "revision": "abc", "dirty": True}
    controller = [
        line("3", "b", "begin", **head), line("4", "b", "did", host="data1", steps=[]),
        line("5", "b", "did", host="data1", steps=[{"key": "x"}]), line("7", "b", "end", outcome="done"),
    ]  # fmt: skip
    data1 = [
        line("1", "a", "begin", **head | {"who": "eve"}, login="root from 192.0.2.1 by ED25519 SHA256:x"),
        line("4", "b", "begin", **head, login="root from 192.0.2.9"),
        line("6", "b", "end", outcome="done", steps=[{"key": "x"}]),
    ]
    first, second = records.records(controller, {"data1": data1})
    assert (first.run, first.who, first.outcome, first.sources) == ("a", "eve", UNFINISHED, ("host",))
    assert (second.outcome, second.ended, second.steps) == ("done", "6", ({"key": "x"},))
    assert set(second.sources) == {"host", "controller"}
    assert second.dirty
    assert second.login == "root from 192.0.2.9"


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3))
LINES = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.sampled_from(["1", "2"]), "run": st.sampled_from(["a", "b"]),
            "event": st.sampled_from(["begin", "did", "end", "other"]),
        },
        optional={"host": VALUES, "steps": VALUES, "outcome": VALUES, "who": VALUES, "login": VALUES},
    ),
    max_size=6,
)  # fmt: skip


@given(controller=LINES, host=LINES, broken=st.lists(TEXT, max_size=3))
def test_no_line_of_a_host_breaks_the_reading(
    controller: list[Mapping[str, Any]], host: list[Mapping[str, Any]], broken: list[str]
) -> None:
    found = records.records(
        parse([*broken, *map(json.dumps, controller)]), {"data1": parse([*map(json.dumps, host), *broken])}
    )
    assert [one.at for one in found] == sorted(one.at for one in found)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", ""),
        ("2h", "2026-01-31T10:00:00.000Z"),
        ("7d", "2026-01-24T12:00:00.000Z"),
        ("2026-01-30 13:30", "2026-01-30T13:30:00.000Z"),
        ("2026-01-30T13:30:00+02:00", "2026-01-30T11:30:00.000Z"),
    ],
)
def test_moments(text: str, at: str) -> None:
    assert reading.moment(text, NOW) == at


@given(text=TEXT)
def test_what_is_no_moment_is_refused(text: str) -> None:
    try:
        found = reading.moment(text, NOW)
    except FleetError:
        return
    assert len(found) in {0, 24}


def test_a_silent_host_is_said_and_the_controllers_word_shown(tmp_path: Path) -> None:
    trail = begun(tmp_path, Hosts())
    trail.touch("data1")

    def read(host: str, script: str) -> list[str]:
        raise FleetError(host=host, subject="SSH", found="no route", expected="a connection")

    found = reading.gather(["data1"], audit.own(tmp_path, ""), "", read)
    assert [one.sources for one in found.records] == [("controller",)]
    assert "no route" in found.untold[0]


# -- in a run ----------------------------------------------------------------------------------------------------


def test_the_key_of_the_operators_login(tmp_path: Path) -> None:
    """As `ssh-keygen -l` shows it."""
    public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2olzlNreNHLBoGPlVjm/t9IzQ0W9xwZqmidj24Thxz"
    (tmp_path / "auth").write_text(f"publickey {public}\n")
    who, origin = audit.operator({"SSH_CONNECTION": "192.0.2.7 1 192.0.2.8 22", "SSH_USER_AUTH": f"{tmp_path}/auth"})
    done = subprocess.run(["ssh-keygen", "-lf", "-"], input=public, text=True, capture_output=True, check=True)
    assert who
    assert f"from 192.0.2.7, key {done.stdout.split()[1]}" in origin


def test_the_revision_and_whether_files_differ(tmp_path: Path) -> None:
    assert audit.revision(tmp_path) == ("unknown", False)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    (tmp_path / "x").write_text("a")
    for words in (["init", "-q"], ["add", "x"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    commit, dirty = audit.revision(tmp_path)
    assert (len(commit), dirty) == (40, False)
    (tmp_path / "x").write_text("b")
    assert audit.revision(tmp_path) == (commit, True)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (FleetError(subject="x", found="y", expected="z"), "failed: x: found y, expected z."),
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("hunter22"), "failed: ValueError"),
    ],
)
def test_how_it_ended_is_written_whatever_ended_it(error: BaseException | None, outcome: str, tmp_path: Path) -> None:
    trail = begun(tmp_path, Hosts())
    run: Any = SimpleNamespace(trail=trail)

    def work() -> None:
        with ended(run):
            trail.touch("data1")
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert own(tmp_path)[-1]["outcome"] == outcome


KEYS = SimpleNamespace(authorities=SimpleNamespace(issuer=SimpleNamespace(offline=False)))


def test_a_run_writes_down_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = object.__new__(Run)
    run.__dict__.update(
        hosts={"data1": None}, inventory=tmp_path, masker=str, acted=[], failures=[], _stale={},
        _states={"data1": HostState("data1", ())},
        listener=lambda *_: None, keys=KEYS, trail=None,
    )  # fmt: skip
    order: list[str] = []

    def answer(host: object, script: str, seconds: int = 0) -> SimpleNamespace:
        order.append("audit" if "audit.jsonl" in script else "change")
        return SimpleNamespace(stdout=["@@all done"], stderr=[], ok=True)

    monkeypatch.setattr("deploy.converge.remote.run", answer)
    run.audited("fleet apply")
    file = File(path="/etc/x", content="hello", phase=Phase.FILES)
    step = Step(host="data1", resource=file, step=StepClass.WRITE, summary="content", script="true")
    run.act("data1", [step])
    run.do("data1", "x: restart", "true")
    run.do("data1", "note", "true", unseen=True)
    run.trail.end("done")
    assert order == ["audit", "change", "change", "change", "audit"], "told before the first change, and at the end"
    (found,) = reading.gather(["data1"], audit.own(tmp_path, ""), "", lambda *_: []).records
    assert [step["key"] for step in found.steps] == ["file:/etc/x", "x: restart"]
    assert found.steps[0]["sha256"] == file.sha256


def test_a_step_that_fails_is_written_down_with_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = object.__new__(Run)
    run.__dict__.update(
        hosts={"data1": None}, inventory=tmp_path, masker=str, acted=[], failures=[], _stale={},
        _states={"data1": HostState("data1", ())},
        listener=lambda *_: None, keys=KEYS, trail=None,
    )  # fmt: skip
    said = ["@@step file:/etc/x", "@@step unit:a.service", "no", "@@fail unit:a.service"]
    monkeypatch.setattr(
        "deploy.converge.remote.run", lambda *_, **__: SimpleNamespace(stdout=said, stderr=[], ok=False)
    )
    run.audited("fleet apply")
    steps = [
        Step(host="data1", resource=item, step=StepClass.WRITE, summary="x", script="true")
        for item in (File(path="/etc/x"), Unit(name="a.service"))
    ]
    with pytest.raises(FleetError):
        run.act("data1", steps)
    (found,) = reading.gather(["data1"], audit.own(tmp_path, ""), "", lambda *_: []).records
    assert [(step["key"], bool(step.get("failed"))) for step in found.steps] == [
        ("file:/etc/x", False),
        ("unit:a.service", True),
    ]
