"""Every secret of the vault, searched for everywhere: it is found in the files that are meant for it, and nowhere else.

In process lists while `apply` and `roll` work, in journals, in all files with their modes, in what commands say, in
what the controller writes, in figures. tests/chaos/test_secrets.py watches a first deploy.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.converge.inventory import folder
from deploy.model.catalog import SERVICES
from deploy.model.scrapes import routes
from deploy.roles.frontend import CONFIG
from deploy.trust.masking import Masker
from lab import exec_
from lab.paths import LabPaths
from tests.chaos.failover import settled, the_fleet
from tests.chaos.rolling import none_left, paid
from tests.chaos.support import INVENTORY, ROOT, SPEC, altered, fleet, on
from tests.chaos.sweeping import ROOTS, declared, files_with, journal_with, misplaced, vault, within
from tests.chaos.test_secrets import sampled

HOSTS = [host.name for host in the_fleet().hosts]
CHANGE = """
roll = {"canary_seconds": 1, "read_interval": 0.3}
frontend = frontend | {"rate_limit": 61}
redis = redis | {"databases": 17}
rabbitmq = {"heartbeat": 61}
mysql = mysql | {"max_lag": 29}
grader = {"run_lease": 61}
"""
"""What is hot, what a reload brings, and what a roll pays: of all that knows secrets."""
DECOY = {"a decoy": f"Decoy{secrets.token_hex(16)}"}
"""Searched for in place of a secret where one is planted: a real one would be kept in the journals for good."""
MONITORS = {"monitoring": "prometheus", "alertmanager": "api", "alert-log": "http"}
SAID = (
    ("plan",), ("plan", "--json"), ("drift", "--json"), ("status",), ("status", "--json"), ("roll", "--dry"),
    ("roll", "--dry", "--json"), ("audit", "--json"), ("sbom",), ("logs", "redis", "--since", "1h", "--json"),
    ("logs", "rabbitmq", "--since", "1h", "--json"), ("logs", "mysql", "--since", "1h", "--json"),
    ("logs", "frontend", "--since", "1h", "--json"), ("logs", "grader", "--since", "1h", "--json"),
)  # fmt: skip


def groups(*names: str) -> subprocess.CompletedProcess[str]:
    """A command of a group: `fleet pki status INVENTORY`."""
    first, second, *rest = names
    return subprocess.run(
        [str(ROOT / "fleet"), first, second, INVENTORY, *rest],
        cwd=ROOT, text=True, capture_output=True, timeout=300, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def figures(host: str) -> str:
    """All that this host's exporters and services say of themselves on its loopback."""
    every = sorted({(one.port, one.inner) for one in routes(the_fleet().host(host))})
    script = "\n".join(f"curl -s -m 20 --noproxy '*' 'http://127.0.0.1:{port}{path}' || true" for port, path in every)
    return on(host, script)


def shown(text: str, values: dict[str, str]) -> str:
    """Without the secrets: what a failing test may print."""
    return Masker(values.values())(text)


def sampled_hosts() -> list[Any]:
    """All hosts; `make test` takes every third."""
    return [pytest.param(name, marks=[pytest.mark.thorough] if number % 3 else []) for number, name in enumerate(HOSTS)]


# The teeth: what is planted is found.


@pytest.fixture
def victim() -> Iterator[str]:
    """A web host with a decoy in every place that is searched."""
    host = the_fleet().members("frontend")[0].name
    value = DECOY["a decoy"]
    script = f"""\
umask 022
mkdir -p /var/lib/fleet-chaos
printf 'password=%s\\n' '{value}' >/var/lib/fleet-chaos/open
printf 'u:%s' '{value}' | base64 -w0 >/var/lib/fleet-chaos/closed
chmod 600 /var/lib/fleet-chaos/closed
printf 'mysql -p%s\\n' '{value}' >>/root/.bash_history.chaos
printf '%s' '{value}' | od -An -tx1 | tr -d ' \\n' | logger -t chaos
"""
    # Not in a command line: that is one of the places.
    assert exec_(SPEC, host, ["sh", "-eu"], input=script, timeout=60).returncode == 0
    yield host
    on(host, "rm -rf /var/lib/fleet-chaos /root/.bash_history.chaos")


def test_what_is_planted_is_found(victim: str) -> None:
    found = {one.path: one for one in files_with(victim, DECOY)}
    planted = {"/var/lib/fleet-chaos/open", "/var/lib/fleet-chaos/closed", "/root/.bash_history.chaos"}
    assert planted <= found.keys()
    assert found["/var/lib/fleet-chaos/open"].mode == 0o644
    wrong = misplaced(found.values(), declared(victim, vault()))
    assert planted <= wrong.keys()
    assert within(journal_with(victim, DECOY), DECOY) == set(DECOY)


def test_what_is_planted_is_not_everywhere() -> None:
    """The decoy's twin: on another host there is none, so that it is not the search that finds itself."""
    host = next(name for name in reversed(HOSTS) if not the_fleet().host(name).has("frontend"))
    other = {"another": f"Decoy{secrets.token_hex(16)}"}
    assert files_with(host, other, ("/etc", "/run", "/tmp", "/root")) == []
    assert journal_with(host, other) == ""


def test_a_secret_in_a_command_line_is_seen() -> None:
    host, value = HOSTS[0], DECOY["a decoy"]
    with sampled() as seen:
        on(host, f"sh -c 'sleep 1; : {value}'")
    assert within("\n".join(seen), DECOY) == set(DECOY)


def test_a_file_that_is_opened_to_everybody_is_seen() -> None:
    """A real one, for a moment: what is meant to hold a secret, with another mode."""
    host = the_fleet().members("redis")[0].name
    values = vault()
    meant = declared(host, values)
    path = "/etc/fleet/redis.auth"
    assert path in meant
    on(host, f"chmod 444 {path}")
    try:
        wrong = misplaced(files_with(host, values, ["/etc/fleet"]), meant)
    finally:
        on(host, f"chmod {meant[path].mode:o} {path}")
    assert "everybody" in wrong[path]
    assert set(wrong) == {path}


# The sweep itself.


@pytest.mark.thorough
def test_no_process_shows_a_secret_while_much_is_changed(tmp_path: Path) -> None:
    """And no command says one: apply and roll of what a reload, a running server and a restart bring."""
    settled()
    values = vault()
    copy = altered(tmp_path, CHANGE)
    said: dict[str, subprocess.CompletedProcess[str]] = {}
    try:
        with sampled() as seen:
            said["plan"] = fleet("plan", inventory=copy)
            said["plan --json"] = fleet("plan", "--json", inventory=copy)
            said["apply"] = fleet("apply", "--json", inventory=copy)
            said["roll"] = fleet("roll", "--json", inventory=copy, timeout=1800)
        written = [path.read_text(errors="replace") for path in copy.glob(".*.jsonl")]
    finally:
        none_left(copy)
        paid(tmp_path)
    assert said["plan"].returncode == 2
    assert said["apply"].returncode == 0, said["apply"].stderr[-2000:]
    assert said["roll"].returncode == 0, said["roll"].stdout[-2000:]
    assert any("sh -s" in line for line in seen), "the deployment's own processes were not seen"
    assert written, "neither a trail nor a journal was written"
    showing = [shown(line, values) for line in seen if within(line, values)]
    assert showing == []
    for command, done in said.items():
        assert within(done.stdout + done.stderr, values) == set(), command
    for text in written:
        assert within(text, values) == set()
    settled()


@pytest.mark.thorough
@pytest.mark.parametrize("host", HOSTS)
def test_secrets_are_in_the_files_meant_for_them_and_open_to_nobody_else(host: str) -> None:
    values = vault()
    meant = declared(host, values)
    found = files_with(host, values)
    assert misplaced(found, meant) == {}
    # It was searched where they are: nothing that is meant to hold one is missing.
    assert {path for path in meant if path.startswith(ROOTS)} <= {one.path for one in found}


@pytest.mark.thorough
def test_a_broker_that_crashes_leaves_no_memory_behind() -> None:
    """Any other Erlang does, with all that it knew in it."""
    host = the_fleet().members("rabbitmq")[-1].name
    crash = 'erlang:halt("crashed by a test")'
    twin = f"cd $(mktemp -d); erl -noinput -boot no_dot_erlang -eval '{crash}.' >/dev/null 2>&1 || true; ls; rm -r $PWD"
    assert on(host, twin) == "erl_crash.dump\n"
    on(host, f"touch /run/before-crash; rabbitmqctl -q eval '{crash}.' || true")
    settled()
    search = "find / -xdev \\( -name 'erl_crash.dump*' -o -name 'core*' -type f -size +1M \\) -newer /run/before-crash"
    assert on(host, f"{search}; rm /run/before-crash") == ""


@pytest.mark.thorough
@pytest.mark.parametrize("host", HOSTS)
def test_no_host_has_a_secret_that_it_does_not_need(host: str) -> None:
    """One by one: what is on a host is what its desired state gives it."""
    values = vault()
    given = {name for file in declared(host, values).values() for name in within(file.content, values)}
    kept_by_servers = {"redis/replica", "mysql/replica"} if the_fleet().host(host).has("redis") else set()
    others = {name: value for name, value in values.items() if name not in given | kept_by_servers}
    assert [one.path for one in files_with(host, others)] == []


@pytest.mark.thorough
@pytest.mark.parametrize("host", HOSTS)
def test_no_journal_has_a_secret(host: str) -> None:
    values = vault()
    assert shown(journal_with(host, values), values) == ""


@pytest.mark.parametrize("host", sampled_hosts())
def test_no_figure_has_a_secret(host: str) -> None:
    values = vault()
    text = figures(host)
    assert "# TYPE" in text
    assert within(text, values) == set()


def test_monitoring_tells_no_secret() -> None:
    """Neither the labels of any series, nor what Prometheus and Alertmanager say that they run with."""
    values = vault()
    for host in the_fleet().members("monitoring"):
        port = {name: SERVICES[name].port(which).number for name, which in MONITORS.items()}
        script = (
            "for p in /api/v1/status/config /api/v1/targets /api/v1/rules /api/v1/alerts /api/v1/status/flags "
            "'/api/v1/series?match[]=%7B__name__%3D~%22.%2B%22%7D'; do\n"
            f"curl -sf -g -m 60 --noproxy '*' \"http://127.0.0.1:{port['monitoring']}$p\"; done\n"
            f"curl -sf -m 20 --noproxy '*' http://127.0.0.1:{port['alertmanager']}/api/v2/status\n"
            f"curl -sf -m 20 --noproxy '*' http://127.0.0.1:{port['alert-log']}/\n"
        )
        text = on(host.name, script)
        assert '"status":"success"' in text
        assert within(text, values) == set()


@pytest.mark.thorough
@pytest.mark.parametrize("words", SAID, ids=" ".join)
def test_no_command_says_a_secret(words: tuple[str, ...]) -> None:
    values = vault()
    done = fleet(words[0], *words[1:])
    assert done.stdout + done.stderr
    assert within(done.stdout + done.stderr, values) == set()


@pytest.mark.thorough
@pytest.mark.parametrize("words", [("pki", "status", "--json"), ("db", "status"), ("queue", "list")])
def test_no_command_of_a_group_says_a_secret(words: tuple[str, ...]) -> None:
    values = vault()
    done = groups(*words)
    assert done.stdout + done.stderr
    assert within(done.stdout + done.stderr, values) == set()


def test_the_controller_keeps_no_secret_in_the_clear() -> None:
    """Beside the inventory, in the lab's logs, in the histories of this machine's shells."""
    values = vault()
    places = [folder(INVENTORY), LabPaths.of(SPEC).base / "log", ROOT / ".ci"]
    paths = [path for place in places for path in place.rglob("*") if path.is_file()]
    paths += [path for path in Path.home().glob(".*history") if path.is_file()]
    assert any(path.name.endswith(".jsonl") for path in paths), "no trail is there to be searched"
    assert [str(path) for path in paths if within(path.read_text(errors="replace"), values)] == []


def test_names_are_shown_and_values_are_not() -> None:
    """The twin: a plan that has to do with secrets names the file, so that it is not silence that hides them.

    PHP reads its configuration at a reload alone, so that a changed one is harmless for a moment.
    """
    host = the_fleet().members("frontend")[0].name
    values = vault()
    on(host, f"cp -p {CONFIG} {CONFIG}.chaos; sed -i 's/app/another/' {CONFIG}")
    try:
        done = fleet("plan", "--json", "--limit", host)
    finally:
        on(host, f"mv {CONFIG}.chaos {CONFIG}")
    keys = {step["key"] for step in json.loads(done.stdout)["steps"]}
    assert f"file:{CONFIG}" in keys
    assert within(done.stdout + done.stderr, values) == set()
    settled()
