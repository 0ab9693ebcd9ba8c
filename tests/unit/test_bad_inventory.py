"""Bad input that needs no host: one clear message each, exit code 1, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Break = Callable[[Path], None]


def setting(text: str, file: str = "group_data/all.py") -> Break:
    def change(folder: Path) -> None:
        with (folder / file).open("a") as handle:
            handle.write(f"\n{text}\n")

    return change


def replaced(old: str, new: str, file: str = "inventory.py") -> Break:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return change


def nothing(folder: Path) -> None:
    """The example as it is: it has no secrets of its own."""


CASES: dict[str, tuple[Break, str]] = {
    "unknown section": (setting("rediss = {}"), "rediss: found an unknown setting"),
    "unknown setting": (setting("redis = {'maxmemroy': '1gb'}"), "redis.maxmemroy: found an unknown setting"),
    "wrong type": (setting("mysql = {'max_connections': 'many'}"), "mysql.max_connections: found 'many'"),
    "not a size": (setting("redis = {'maxmemory': '2 elephants'}"), "is not a size"),
    "out of bounds": (setting("rabbitmq = {'vm_memory_high_watermark': 1.5}"), "less than or equal to 0.8"),
    "not one of": (setting("redis = {'appendfsync': 'sometimes'}"), "redis.appendfsync: found 'sometimes'"),
    "maxmemory over the host's memory": (
        setting("redis = {'maxmemory': '7gb'}"),
        "redis.maxmemory: found 7gb, expected at most 70 %",
    ),
    "services over the host's memory": (setting("mysql = {'innodb_buffer_pool_size': '8gb'}"), "services set to use"),
    "role without a host": (replaced('grader = ["app1"]', "grader = []"), "service grader: found no host"),
    "group that is no service": (replaced("monitoring = [", "monitorign = ["), "monitorign"),
    "clashing roles": (replaced('runner = ["run1", "run2"]', 'runner = ["data1"]'), "a host of its own in production"),
    "two hosts, one address": (replaced("192.0.2.12", "192.0.2.11"), "2 hosts with it: data1, data2"),
    "two hosts, one name": (replaced('("data2", {', '("data1", {'), "data1: inventory: found the name twice"),
    "a host twice in a group": (
        replaced('rabbitmq = ["data1", "data2"', 'rabbitmq = ["data1", "data1"'),
        "data1: inventory: found the name twice in rabbitmq",
    ),
    "two sentinels": (
        replaced('sentinel = ["data1", "data2", "data3"]', 'sentinel = ["data1", "data2"]'),
        "service sentinel: found 2 hosts",
    ),
    "replicas without sentinels": (
        replaced('sentinel = ["data1", "data2", "data3"]', ""),
        "service sentinel: found 0 hosts",
    ),
    "connections cut before the database does": (
        setting("proxy = {'idle_timeout': '1h'}"),
        "proxy.idle_timeout: found 3600 s",
    ),
    "no address": (replaced('"192.0.2.13"', '"data3.example"'), "an IP address"),
    "inventory with a syntax error": (replaced("redis = [", "redis = [["), "an inventory that pyinfra can read"),
    "inventory that raises": (setting("1 / 0", "inventory.py"), "division by zero"),
    "one address that could take all connections": (
        setting("frontend = {'address_requests': 512}"),
        "less than half of frontend.worker_connections",
    ),
    "php pool that php-fpm refuses": (setting("frontend = {'fpm_max_spare': 1}"), "min_spare <= start_servers"),
    "too few database connections": (setting("mysql = {'max_connections': 20}"), "mysql.max_connections: found 20"),
    "renewal at every run": (setting("trust = {'renew_days': 365}"), "trust.renew_days"),
    "host that the CA may not sign for": (
        setting("trust = {'permitted': ['data1', '192.0.2.0/24']}"),
        "trust.permitted",
    ),
    "network that is none": (setting("trust = {'permitted': ['192.0.2.1/24']}"), "trust.permitted"),
    "operator's key that is none": (setting("base = {'operators': ['AAAA']}"), "base.operators"),
    "values that must agree": (
        setting("rabbitmq = {'user': 'other'}", "group_data/redis.py"),
        "rabbitmq: found another value",
    ),
    "waiver without a reason": (setting("waivers = [{'what': 'x', 'why': ''}]"), "waivers.0.why"),
    "missing secrets": (nothing, "fleet secrets init"),
}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "fleet"), *arguments], cwd=ROOT, text=True, capture_output=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    target = tmp_path / "judge"
    shutil.copytree(ROOT / "inventories/production", target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert message in said
    assert ": found " in said
    assert ", expected " in said


@pytest.mark.parametrize("name", CASES)
def test_bad_inventory(name: str, inventory: Path, identity: Path) -> None:
    change, message = CASES[name]
    change(inventory)
    refused(run("plan", str(inventory), FLEET_IDENTITY=str(identity)), message)


def test_the_example_is_complete(inventory: Path) -> None:
    """Copied as it is, it passes every check of the model."""
    from deploy.converge.inventory import load

    fleet = load(inventory)[1]
    assert len(fleet.hosts) == 9
    assert {service.name for service in fleet.services()} >= {"redis", "mysql", "rabbitmq", "grader", "frontend"}


def test_no_such_inventory() -> None:
    refused(run("plan", "nowhere"), "no such inventory")


def test_several_mistakes_are_all_named(inventory: Path, identity: Path) -> None:
    setting("redis = {'maxmemroy': 1, 'appendfsync': 'x'}")(inventory)
    said = run("plan", str(inventory), FLEET_IDENTITY=str(identity)).stderr
    assert "redis.maxmemroy" in said
    assert "redis.appendfsync" in said


@pytest.fixture
def small(inventory: Path, identity: Path) -> Path:
    """An inventory with secrets made for `identity`; a small CA, since a large one takes its time."""
    public = identity.with_suffix(".pub").read_text().strip()
    setting(f"base = {{'operators': ['{public}']}}\ntrust = {{'authority_bits': 2048}}")(inventory)
    done = run("secrets", "init", str(inventory), FLEET_IDENTITY=str(identity))
    assert done.returncode == 0, done.stderr
    return inventory


def test_secrets_init_keeps_what_is_there(small: Path, identity: Path) -> None:
    before = (small / "secrets.age").read_bytes()
    assert run("secrets", "init", str(small), FLEET_IDENTITY=str(identity)).returncode == 0
    assert (small / "secrets.age").read_bytes() == before


def test_wrong_identity(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    refused(run("plan", str(small), FLEET_IDENTITY=str(other)), "secrets.age")


def test_identity_that_others_can_read(small: Path, identity: Path) -> None:
    identity.chmod(0o644)
    refused(run("plan", str(small), FLEET_IDENTITY=str(identity)), str(identity))


def test_corrupt_secrets(small: Path, identity: Path) -> None:
    path = small / "secrets.age"
    path.write_bytes(path.read_bytes()[:-40])
    refused(run("plan", str(small), FLEET_IDENTITY=str(identity)), "secrets.age")


def test_missing_authority(small: Path, identity: Path) -> None:
    shutil.rmtree(small / "pki")
    refused(run("plan", str(small), FLEET_IDENTITY=str(identity)), "pki")


def test_limit_that_is_nobody(small: Path, identity: Path) -> None:
    refused(run("plan", str(small), "--limit", "data9", FLEET_IDENTITY=str(identity)), "--limit: found 'data9'")
