"""Reading journals across hosts: the order, what a dead host had sent, what journalctl is asked for."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from deploy import view
from deploy.converge import desired
from deploy.converge.inventory import folder, load
from deploy.errors import FleetError
from deploy.model.fleet import Context, Live
from deploy.model.resources import Account, Certificate, File, Unit
from deploy.procedures import logs
from deploy.roles import door, log_sender, log_store
from tests.unit.monitoring.fleets import FLEET, GROUPS, context, files, fleet

Reader = Callable[[str, str], list[str]]


def entry(time: float, message: object, **more: str) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(int(time * 1e6)), "MESSAGE": message, **more})


def reader(answers: dict[str, list[str]], asked: list[tuple[str, str]] | None = None) -> Reader:
    """Hosts that are missing do not answer; what is stored is under `stored`."""

    def read(host: str, script: str) -> list[str]:
        if asked is not None:
            asked.append((host, script))
        key = "stored" if "--file" in script else host
        if key not in answers:
            raise FleetError(host=host, subject="SSH", found="connection refused", expected="an answer")
        return answers[key][::-1]

    return read


def everybody() -> list[str]:
    return [host.name for host in FLEET.hosts]


def test_lines_of_all_hosts_come_in_the_order_of_time() -> None:
    read = reader(
        {
            "web1": [entry(1, "a", _SYSTEMD_UNIT="nginx.service"), entry(3, "c", PRIORITY="3")],
            "web2": [entry(2, "b"), entry(3, "d")],
        }
    )
    found = logs.gather(FLEET, "frontend", "1h", 10, everybody(), read)
    assert [(line.host, line.text) for line in found.lines] == [
        ("web1", "a"),
        ("web2", "b"),
        ("web1", "c"),
        ("web2", "d"),
    ]
    assert (found.untold, found.cut) == ((), ())
    assert found.lines[0].unit == "nginx.service"
    assert found.lines[2].priority == 3


def test_only_hosts_of_the_service_are_asked_and_for_its_units() -> None:
    asked: list[tuple[str, str]] = []
    logs.gather(FLEET, "worker", "30min", 10, everybody(), reader({"app1": []}, asked))
    ((host, script),) = asked
    assert host == "app1"
    assert "--unit=omegaup-worker@analytics.service" in script
    assert "--since=-30min" in script
    assert "--file" not in script


def test_a_unit_is_read_on_every_host() -> None:
    found = logs.gather(FLEET, "ssh.service", "1h", 10, everybody(), reader({name: [] for name in everybody()}))
    assert found == logs.Logs(())


def test_what_a_dead_host_had_sent_is_read_from_the_store() -> None:
    asked: list[tuple[str, str]] = []
    found = logs.gather(FLEET, "runner", "1h", 10, everybody(), reader({"stored": [entry(1, "last words")]}, asked))
    assert [(line.host, line.text, line.stored) for line in found.lines] == [("run1", "last words", True)]
    assert "run1 does not answer (connection refused): what it had sent to mon1 is shown" in found.untold
    host, script = asked[-1]
    assert host == "mon1"
    assert f"'{log_store.STORE}/remote-{log_store.source('run1')}[.@]*'" in script


def test_what_cannot_be_read_is_said() -> None:
    found = logs.gather(FLEET, "runner", "1h", 10, everybody(), reader({}))
    assert found.lines == ()
    assert found.untold == ("run1 does not answer (connection refused), nor does mon1 (connection refused)",)


def test_the_store_itself_has_nobody_to_ask_for_its_lines() -> None:
    found = logs.gather(FLEET, "monitoring", "1h", 10, ["mon1"], reader({"stored": [entry(1, "x")]}))
    assert found.lines == ()
    assert "nobody else has its lines" in found.untold[0]


def test_that_there_is_more_is_said() -> None:
    read = reader({"run1": [entry(1, "a"), entry(2, "b")]})
    assert logs.gather(FLEET, "runner", "1h", 2, everybody(), read).cut == ("run1",)


@pytest.mark.parametrize(
    ("text", "taken"),
    [("2h", "-2h"), ("30min", "-30min"), ("1d", "-1d"), ("2026-01-31", "2026-01-31 UTC"),
     ("2026-01-31T13:30", "2026-01-31 13:30 UTC")],
)  # fmt: skip
def test_times(text: str, taken: str) -> None:
    assert logs.since(text) == taken


@pytest.mark.parametrize("text", ["", "yesterday", "2h; rm -rf /", "$(x)", "-2h", "2 weeks"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(FleetError, match="a span such as"):
        logs.since(text)


@pytest.mark.parametrize("name", ["nothing", "base", "a b.service", "$(x).service", "-x.service"])
def test_what_is_no_service_is_refused(name: str) -> None:
    with pytest.raises(FleetError, match="no service of this fleet"):
        logs.units(FLEET, name)


def test_messages_that_are_no_text() -> None:
    read = logs.parse(
        "a", [entry(2, None), entry(1, [104, 105, 255, 7]), "not json", "[]", "{}", entry(0, "x\x1b[2Jy\n")][::-1]
    )
    texts = {line.time: line.text for line in read}
    assert texts == {2: "(too long to be shown)", 1: "hi\ufffd", 0: "x [2Jy"}


def test_a_terminal_is_told_nothing_by_a_line() -> None:
    out, err = Console(file=io.StringIO(), width=200), Console(file=io.StringIO(), width=200)
    found = logs.Logs((logs.Line(0, "web1", "nginx.service", 3, "[red]x[/red]", stored=True),), ("gone",), ("web1",))
    view.show_logs(out, err, found)
    assert out.file.getvalue() == "1970-01-01 00:00:00.000 web1~ nginx: [red]x[/red]\n"  # type: ignore[attr-defined]
    assert "gone" in err.file.getvalue()  # type: ignore[attr-defined]


def test_every_host_has_a_file_of_its_own_that_stays_its_own() -> None:
    for name in ("lab", "production"):
        fleet = load(folder(name))[1]
        sources = [one.source for one in log_store.senders(fleet)]
        assert len(set(sources)) == len(sources)
    assert log_store.source("data1") == "127.91.65.55"


def test_a_host_sends_with_its_own_key_to_the_first_monitoring_host() -> None:
    rendered = files(FLEET, "data1")
    assert "URL=https://mon1:19532\n" in rendered[log_sender.CONFIG]
    state = desired.host_state(context(FLEET, "data1")).resources
    pair = next(item for item in state if isinstance(item, Certificate) and item.name == "log-sender")
    assert (pair.owner, pair.server_auth, pair.client_auth) == (log_sender.ACCOUNT, False, True)
    assert log_sender.ACCOUNT in {item.name for item in state if isinstance(item, Account)}
    units = {item.name: item for item in state if isinstance(item, Unit)}
    assert units[log_sender.UNIT].running
    assert units["systemd-journal-remote.socket"].masked
    assert units["systemd-journal-gatewayd.socket"].masked


def test_the_door_of_the_store_knows_every_host_by_its_address() -> None:
    rendered = files(FLEET, "mon1")[door.CONFIG]
    for one in log_store.senders(FLEET):
        assert f"use_backend logs-{one.host} if {{ src {one.address} }}" in rendered
        assert f"server local 127.0.0.1:19531 source {one.source}\n" in rendered
    assert "frontend logs" not in files(FLEET, "data1")[door.CONFIG]
    # The second of a pair takes none: every host sends to the first.
    assert "use_backend logs-" not in files(FLEET, "mon2")[door.CONFIG]


def test_a_fleet_without_monitoring_keeps_its_journals_where_they_are() -> None:
    alone = fleet({name: groups for name, groups in GROUPS.items() if not name.startswith("mon")})
    state = desired.host_state(Context(
        alone, alone.host("run1"), Live.first_boot(alone), "CA", lambda name: name, desired.render, desired.tree
    )).resources  # fmt: skip
    assert not next(item for item in state if isinstance(item, Unit) and item.name == log_sender.UNIT).running
    assert log_sender.CONFIG not in {item.path for item in state if isinstance(item, File)}


def test_the_bound_leaves_room_for_what_is_being_written() -> None:
    ctx = context(FLEET, "mon1")
    bound = files(FLEET, "mon1")[f"/etc/systemd/system/{log_store.BOUND}.service"]
    assert f"--vacuum-size={log_store.room(ctx)} " in bound
    assert log_store.room(ctx) + 128 * 1024**2 * len(FLEET.hosts) == ctx.settings.monitoring.logs_max


JOURNALCTL, REMOTE = shutil.which("journalctl"), "/lib/systemd/systemd-journal-remote"


@pytest.mark.skipif(
    JOURNALCTL is None or not Path(REMOTE).exists(), reason="systemd-journal-remote is not installed here"
)
def test_the_newest_lines_of_a_stored_journal_are_read(tmp_path: Path) -> None:
    """With the programs themselves: several files of one host, and none of another's."""
    now = 2_000_000_000
    for name, lines in (("remote-127.64.0.1", ["a", "b", "c"]), ("remote-127.64.0.11", ["another's"])):
        export = "".join(
            f"__REALTIME_TIMESTAMP={now + n}000000\n__MONOTONIC_TIMESTAMP={n + 1}\n_BOOT_ID={'1' * 32}\n"
            f"_MACHINE_ID={'2' * 32}\n_SYSTEMD_UNIT=x.service\nMESSAGE={text}\n\n" for n, text in enumerate(lines)
        )  # fmt: skip
        subprocess.run(
            [REMOTE, "--split-mode=none", f"--output={tmp_path}/{name}.journal", "-"], input=export.encode(),
            check=True, capture_output=True,
        )  # fmt: skip
    script = logs.script(("x.service",), "2000-01-01 UTC", 2, f"{tmp_path}/remote-127.64.0.1[.@]*")
    said = subprocess.run(["sh", "-eu"], input=script, text=True, capture_output=True, check=True).stdout
    assert [line.text for line in logs.parse("h", said.splitlines())] == ["b", "c"]
    nothing = logs.script(("x.service",), "2000-01-01 UTC", 2, f"{tmp_path}/remote-127.64.0.2[.@]*")
    assert subprocess.run(["sh", "-eu"], input=nothing, text=True, capture_output=True, check=True).stdout == ""
