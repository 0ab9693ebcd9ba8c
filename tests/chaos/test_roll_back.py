"""A bad change of each kind is stopped at the first member, which comes back by itself; the others are not touched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploy.model.catalog import SERVICES
from deploy.procedures.roll.order import Action
from deploy.procedures.roll.run import Options
from deploy.roles import backend
from tests.chaos.failover import primary, redis_cli, settled, the_fleet
from tests.chaos.rolling import applied, none_left, paid, rolled, spoiled, started
from tests.chaos.support import altered, fleet, on
from tests.chaos.watching import watching

QUICK = 'roll = {"canary_seconds": 10, "read_interval": 0.5, "after_seconds": 40, "before_seconds": 30}'


def also(*arguments: str) -> Callable[[str], str]:
    """More arguments on the unit's command line."""

    def change(text: str) -> str:
        lines = text.splitlines()
        return (
            "\n".join(f"{one} {' '.join(arguments)}" if one.startswith("ExecStart=") else one for one in lines) + "\n"
        )

    return change


def more(*lines: str) -> Callable[[str], str]:
    """More lines in the unit's [Service]."""
    return lambda text: text.replace("[Service]\n", "[Service]\n" + "\n".join(lines) + "\n", 1)


SLEEPS = (
    "ExecStartPost=+/bin/sh -c '(while sleep 0.1; do REDISCLI_AUTH=$(cat /etc/fleet/redis.auth) redis-cli --user fleet "
    "-p 16379 DEBUG SLEEP 3; REDISCLI_AUTH=$(cat /etc/fleet/redis.auth) redis-cli --user fleet -p 16380 DEBUG SLEEP 3; "
    "done) >/dev/null 2>&1 &'"
)


FULL = "TemporaryFileSystem=" + " ".join(f"/var/lib/redis/{one}:size=48k,mode=0777" for one in ("cache", "sessions"))
"""It starts, and there is no space left on the device as soon as the primary has sent what it holds."""


def full(text: str) -> str:
    """What systemd is told to make writable is not covered by a file system of its own: so it is told of the parent."""
    return more(FULL)(re.sub(r"(ReadWritePaths=/var/lib/redis)/\w+", r"\1", text))


@dataclass(frozen=True)
class Bad:
    """A change: of a template; whose service it is; a word of the message's evidence; what has to be done before."""

    template: str
    change: Callable[[str], str]
    service: str
    words: str
    begin: Callable[[], None] = lambda: None


def fill() -> None:
    """More in both Redis than a small disk holds, for as long as the test lasts."""
    for instance in ("cache", "sessions"):
        port = SERVICES["redis"].port(instance).number
        where = primary(port)
        on(where, f"head -c 300000 /dev/urandom | {redis_cli(where, instance)} -e -X DATA SET chaos:full DATA EX 900")


BAD = {
    "does not start": Bad("redis/redis.service.j2", also("--no-such-directive", "yes"), "redis", "restart"),
    "health check fails": Bad("redis/redis.service.j2", also("--bind", "127.0.0.1"), "redis", "gate"),
    "slow": Bad(
        "redis/redis.service.j2",
        lambda text: more(SLEEPS)(also("--enable-debug-command", "local")(text)), "redis", "takes",
    ),
    "logs errors": Bad(
        "sentinel/redis-sentinel.service.j2",
        more("ExecStartPost=/bin/sh -c '(while sleep 0.5; do echo \"<3>a request failed\"; done) &'"), "sentinel",
        "a request failed",
    ),
    "replica does not catch up": Bad(
        "mysql/service.conf.j2", more("Environment=MYSQLD_OPTS=--skip-slave-start"), "mysql", "io No"
    ),
    "disk full": Bad("redis/redis.service.j2", full, "redis", "", fill),
    "broker does not start": Bad("rabbitmq/rabbitmq-env.conf.j2", lambda text: text + "exit 1\n", "rabbitmq", "start"),
}  # fmt: skip


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[str]:
    settled()
    copy = altered(tmp_path, QUICK)
    yield str(copy)
    none_left(copy)
    paid(tmp_path)
    settled()


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "does not start" else [pytest.mark.thorough]) for kind in BAD]
)
def test_stopped_at_the_first_member(kind: str, inventory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = BAD[kind]
    before = started()
    bad.begin()
    with spoiled(monkeypatch, bad.template, bad.change), watching(the_fleet()) as watch:
        outcome = applied(inventory)
        assert outcome.errors == ()
        assert outcome.pending
        assert started() == before
        found = rolled(Options(service=bad.service), inventory)
    assert found.how == "stopped"
    message = found.errors[0].message()
    assert bad.words in message
    assert "has its earlier files again and is well" in message
    touched = {one.host for one in found.steps if one.action is Action.RESTART}
    assert len(touched) == 1
    assert found.errors[0].host in touched
    after = started()
    assert {host for host, unit in after if after[host, unit] != before[host, unit]} == touched
    assert all(len(out) <= 1 for out in watch.out.values()), watch.out
    settled_status = fleet("status", "--wait", "30")
    assert settled_status.returncode == 0, settled_status.stdout


@pytest.mark.thorough
def test_a_certificate_that_the_peers_refuse(inventory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair and a CA of another fleet: the server starts with them, and nobody of this one speaks to it."""
    real, host, folder = backend.tls, the_fleet().members("gitserver")[0].name, "/etc/omegaup/elsewhere"
    openssl = "openssl req -x509 -newkey rsa:2048 -nodes -days 2"
    owner = SERVICES["gitserver"].identity.owner  # type: ignore[union-attr]
    on(
        host,
        f"""\
install -d -o {owner} -m 0700 {folder}
cd {folder}
{openssl} -subj '/CN=elsewhere' -keyout ca.key -out ca.crt 2>/dev/null
{openssl} -CA ca.crt -CAkey ca.key -subj '/OU=gitserver/CN=gitserver' -addext subjectAltName=DNS:gitserver,DNS:{host} \
  -addext basicConstraints=CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth -keyout own.key -out own.crt
chown {owner} *""",
    )
    other = {"ca": f"{folder}/ca.crt", "certificate": f"{folder}/own.crt", "key": f"{folder}/own.key"}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(backend, "tls", lambda name: real(name) | (other if name == "gitserver" else {}))
            assert applied(inventory).errors == ()
            found = rolled(Options(service="gitserver"), inventory)
    finally:
        on(host, f"rm -rf {folder}")
    assert found.how == "stopped"
    assert "GitServer" in found.errors[0].message()
    assert fleet("status", "--wait", "30").returncode == 0


def test_what_does_not_validate_never_comes_to_a_roll(inventory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = started()
    with spoiled(monkeypatch, "mysql/fleet.cnf.j2", lambda text: text + "no_such_variable = 1\n"):
        outcome = applied(inventory)
    assert outcome.errors
    assert "refused by its checker" in outcome.errors[0].message()
    assert rolled(Options(), inventory).how == "nothing"
    assert started() == before


@pytest.mark.thorough
def test_without_watching_the_canary_a_bad_change_reaches_everybody(
    inventory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: the same change, its gates disabled."""
    bad = BAD["logs errors"]
    with spoiled(monkeypatch, bad.template, bad.change):
        assert applied(inventory).errors == ()
        options = replace(Options(service=bad.service), skip=frozenset({"errors"}))
        found = rolled(options, inventory)
    assert found.how == "done"
    assert len([one for one in found.steps if one.action is Action.RESTART]) == 3
