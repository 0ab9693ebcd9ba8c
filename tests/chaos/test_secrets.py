"""No secret leaves the vault but into its own files: not by a process list, a journal, or what a command says."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lab
from deploy.converge.inventory import folder, open_keys
from deploy.roles.redis_cli import client
from deploy.trust.masking import Masker
from deploy.trust.secret import MASK
from tests.chaos.failover import database, the_fleet
from tests.chaos.support import INVENTORY, SPEC, altered, apply, drift, fleet, on

MEMBERS = ("data3", "data2")
"""They have most of the secrets: those of Redis, Sentinel, the broker and the database."""

PAUSE = 0.2


def arguments() -> Iterator[str]:
    """The command lines of all processes: the controller's, and those of the hosts, which this machine sees as well."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue


@contextmanager
def sampled() -> Iterator[set[str]]:
    """Every command line that was seen, several times a second, while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def sample() -> None:
        while not over.wait(PAUSE):
            seen.update(arguments())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def vault() -> list[str]:
    keys = open_keys(folder(INVENTORY))
    return [keys.secret(name) for name in keys.vault.names()]


def leaks(text: str) -> list[str]:
    """Lines with a secret, as it is or in a form that the masker knows; the secret itself is not shown."""
    masker = Masker(vault())
    masked = [masker(line) for line in text.splitlines()]
    found = [line for line, before in zip(masked, text.splitlines(), strict=True) if line != before]
    # Not by the masker's word alone.
    return found + ["(a secret, not masked)" for value in vault() if value in text and not found]


def test_the_probe_would_see_one() -> None:
    """A value of the vault as an argument on the host is found."""
    with sampled() as seen:
        on(MEMBERS[0], f"sh -c 'sleep 1; : {open_keys(folder(INVENTORY)).secret('mysql/app')}'")
    assert any(MASK in line for line in leaks("\n".join(seen)))


@pytest.mark.thorough
def test_no_secret_is_seen_during_a_first_deploy(tmp_path: Path) -> None:
    assert len(vault()) > 10
    # The database's primary is only replaced by a person.
    host = next(name for name in MEMBERS if name != database())
    lab.reset(SPEC, host)
    said: dict[str, subprocess.CompletedProcess[str]] = {}
    # Everything is to be made: the plan names all that has a secret in it.
    with sampled() as seen:
        said["plan"] = fleet("plan", "--limit", host)
        said["plan --json"] = fleet("plan", "--limit", host, "--json")
        said["apply"] = fleet("apply", "--limit", host)
    assert said["plan"].returncode == 2
    assert said["apply"].returncode == 0, said["apply"].stderr[-2000:]
    # Passwords that are other ones, in files and in the running server: both are in what differs.
    on(host, "echo 'user eve on >another-password' >>/etc/redis/cache/users.acl; "
             f"{client(the_fleet().host(host), 'sessions')} CONFIG SET masterauth another")  # fmt: skip
    changed = altered(tmp_path, "redis = redis | {'maxmemory': '300mb'}")
    with sampled() as more:
        said["second plan"] = fleet("plan", "--limit", host, inventory=changed)
        said["second plan --json"] = fleet("plan", "--limit", host, "--json", inventory=changed)
        said["apply --json"] = fleet("apply", "--limit", host, "--json")
    assert said["apply --json"].returncode == 0, said["apply --json"].stdout[-2000:]
    assert any("sh -s" in line for line in seen), "the deployment's own processes were not seen"
    assert leaks("\n".join(sorted(seen | more))) == []
    for command, done in said.items():
        assert leaks(done.stdout + done.stderr) == [], command
        assert not re.search(r"PRIVATE KEY-----\n", done.stdout + done.stderr), command
    journal = on(host, "journalctl -q -o export --no-pager | tr -d '\\000'")
    assert leaks(journal) == []
    assert apply(host)["done"] == []
    assert drift(host) == set()
