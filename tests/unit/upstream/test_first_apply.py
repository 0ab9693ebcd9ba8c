"""A first apply on bare hosts, up to the shell that they would be sent: it is made, and sh reads all of it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from deploy.converge import compare, look, shell
from deploy.converge.inventory import folder, load, open_keys
from deploy.model.observed import HostFactsSeen, Snapshot
from deploy.model.profiles import UPSTREAM
from deploy.model.resources import Delivery, HostState
from deploy.procedures import people
from deploy.procedures.initialise import initialise
from deploy.trust.signing import make_root
from tests.unit.upstream.fleets import FLEET, state

AUTHORITY = make_root("test", 2048, 9, datetime.now(UTC))[1].public_bytes(Encoding.PEM).decode()
HOSTS = [host.name for host in FLEET.hosts]


@pytest.mark.parametrize("host", HOSTS)
def test_the_shell_reads_what_a_bare_host_is_sent(host: str) -> None:
    wanted = HostState(host, tuple(state(host).values()))
    seen = Snapshot(host, HostFactsSeen("debian", "12", 8 * 1024**3, 100 * 1024**3))
    steps = compare.steps(wanted, seen, AUTHORITY)
    assert {step.key for step in steps} >= {item.key for item in wanted.resources if isinstance(item, Delivery)}
    for script in (shell.batch([step for step in steps if step.script]), look.script(wanted.resources, "nonce")):
        read = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
        assert read.returncode == 0, read.stderr


def test_an_inventorys_secrets_are_its_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(identity)], check=True)
    public = identity.with_suffix(".pub").read_text().strip()
    inventory = tmp_path / "judge"
    (inventory / "group_data").mkdir(parents=True)
    for name in ("inventory.py", "group_data/all.py", "group_data/redis.py"):
        (inventory / name).write_text((folder("upstream") / name).read_text())
    with (inventory / "group_data/all.py").open("a") as file:
        file.write(f"\nbase = {{'operators': [{public!r}]}}\ntrust = {{'authority_bits': 2048}}\n")
    made = initialise(inventory, identity)
    assert {"upstream/gitserver", "mysql/gitserver"} <= set(made.secrets)
    assert "mysql/replica" not in made.secrets
    assert load(inventory)[1].profile is UPSTREAM
    keys = open_keys(inventory, identity, profile=UPSTREAM)
    # It stands in headers, JSON, SQL and PHP: letters and digits only.
    assert all(value.reveal().isalnum() for value in keys.vault.values())
    people.operator(inventory, "ana", tmp_path / "ana.p12", 30, identity)
