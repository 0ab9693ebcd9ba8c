from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lab import cli, inside, lifecycle, teardown
from lab.errors import LabError
from lab.lifecycle import HostStatus, UpResult
from lab.progress import Event, Progress
from lab.spec import LabSpec


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli.app, list(args), catch_exceptions=False)


@pytest.mark.parametrize("command", ["up", "down", "list", "ssh", "exec", "stop", "kill", "start", "reset"])
def test_help_teaches_with_examples(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output


def test_help_of_all() -> None:
    assert "fleet lab up single" in " ".join(invoke("--help").output.split())


def test_an_error_is_one_message_and_no_traceback() -> None:
    result = invoke("list", "-i", "nope")
    assert result.exit_code == 1
    assert result.stderr.startswith("error nope: no lab here")
    assert "  expected: an inventory with a lab.toml" in result.stderr
    assert "  try: give a known name" in result.stderr
    assert "Traceback" not in result.output


def test_messages_are_not_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: LabSpec) -> list[HostStatus]:
        raise LabError("data1", "it says [/nonsense] here")

    monkeypatch.setattr(lifecycle, "list_hosts", fail)
    assert "it says [/nonsense] here" in invoke("list").stderr


@pytest.mark.parametrize("args", [("stop", "nope"), ("kill", "nope"), ("exec", "nope", "--", "true"), ("ssh", "nope")])
def test_an_unknown_host_lists_the_known_ones(args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(inside, "layout", lambda: pytest.fail("not asked"))
    result = invoke(*args)
    assert result.exit_code == 1
    assert "no host of this name" in result.stderr
    assert "data1, data2" in result.stderr


def test_two_inventories() -> None:
    assert "two inventories" in invoke("up", "single", "-i", "other").stderr


def test_up_tells_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def up(spec: LabSpec, hosts: object, progress: Progress, *, install: bool) -> UpResult:
        assert (spec.name, hosts, install) == ("single", None, True)
        progress(Event("all1", "booting", 0.5))
        progress(Event(None, "a [word]", 1.5))
        return UpResult(("all1",), (), 2.0)

    monkeypatch.setattr(lifecycle, "up", up)
    result = invoke("up", "single", "--install")
    assert result.output.splitlines() == [
        "   0.5 s  all1: booting",
        "   1.5 s  lab: a [word]",
        "lab single: 1 started, 0 already running, 2.0 s",
    ]


def test_down_all(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[tuple[str, bool]] = []
    monkeypatch.setattr(teardown, "all_up", lambda: [LabSpec.load("lab"), LabSpec.load("single")])
    monkeypatch.setattr(teardown, "down", lambda spec, show, keep: gone.append((spec.name, keep)))
    assert invoke("down", "--all", "--keep").exit_code == 0
    assert gone == [("lab", True), ("single", True)]


def test_list_as_json_and_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [HostStatus("all1", "10.78.0.11", "running", 4, "degraded", 20.5)]
    monkeypatch.setattr(lifecycle, "list_hosts", lambda spec: states)
    assert json.loads(invoke("list", "single", "--json").output)[0]["systemd"] == "degraded"
    assert invoke("list", "single").output == "all1\t10.78.0.11\trunning\tdegraded\t20 MiB\n"


def test_exec_passes_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def enter(spec: LabSpec, host: str, argv: list[str], environ: dict[str, str]) -> list[str]:
        seen.append(argv)
        return ["sh", "-c", "exit 42"] if argv[0] == "false" else ["sh", "-c", "kill -9 $$"]

    monkeypatch.setattr(inside, "enter_argv", enter)
    assert invoke("exec", "data1", "--", "false", "-x", "--help").exit_code == 42
    assert invoke("exec", "data1", "true", "-i", "y").exit_code == 137
    assert seen == [["false", "-x", "--help"], ["true", "-i", "y"]]


def test_the_ssh_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    monkeypatch.setenv("FLEET_LAB_STATE", str(tmp_path))
    monkeypatch.setattr("os.execvp", lambda file, argv: seen.append(argv))
    invoke("ssh", "-u", "deploy", "data1", "ls", "-l")
    argv = seen[0]
    assert argv[0] == "ssh"
    assert argv[-3:] == ["deploy@10.77.0.11", "ls", "-l"]
    assert "StrictHostKeyChecking=yes" in argv
    assert f"UserKnownHostsFile={tmp_path}/lab/ssh/known_hosts" in argv
