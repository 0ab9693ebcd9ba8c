"""Testinfra on the hosts of an inventory (FLEET_INVENTORY, default the lab). Everything here only reads.

The suite is made from the catalog: a service that is added there is tested without a new test for its ports, names,
health, certificates and flows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from deploy.converge.inventory import folder, load
from deploy.model.fleet import Fleet, HostSpec


@cache
def loaded() -> tuple[dict[str, dict[str, object]], Fleet]:
    inventory, fleet = load(folder(os.environ.get("FLEET_INVENTORY", "lab")))
    return {host.name: host.data.dict() for host in inventory}, fleet


@cache
def ssh_config() -> Path:
    """One connection per host, kept open for all its tests; the same pinned keys as the deployment uses."""
    directory = Path(tempfile.mkdtemp(prefix="fleet-verify-"))
    lines = []
    for name, data in loaded()[0].items():
        lines += [
            f"Host {name}",
            f"  HostName {data.get('ssh_hostname', name)}",
            f"  User {data.get('ssh_user', 'root')}",
            f"  Port {data.get('ssh_port') or 22}",
            "  StrictHostKeyChecking yes",
            "  BatchMode yes",
            "  ControlMaster auto",
            f"  ControlPath {directory}/%h",
            "  ControlPersist 30",
        ]
        if data.get("ssh_key"):
            lines += [f"  IdentityFile {data['ssh_key']}", "  IdentitiesOnly yes"]
        if data.get("ssh_known_hosts_file"):
            lines.append(f"  UserKnownHostsFile {data['ssh_known_hosts_file']}")
    path = directory / "config"
    path.write_text("\n".join(lines) + "\n")
    return path


@cache
def connection(name: str) -> Host:
    sudo = bool(loaded()[0][name].get("_sudo"))
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(ssh_config()), sudo=sudo)


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    return loaded()[1]


@pytest.fixture(scope="session")
def on() -> Callable[[str], Host]:
    """`on("data1")`: testinfra's view of a host."""
    return connection


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> HostSpec:
    """The host of a test that runs once for each host (or for each that has the service in `@pytest.mark.service`)."""
    found: HostSpec = request.param
    return found


@pytest.fixture
def host(spec: HostSpec) -> Host:
    return connection(spec.name)


def soon(true: Callable[[], bool], seconds: float = 90) -> bool:
    """Whether it comes to be true in time; asked every second."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(1)
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "spec" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("service")
    hosts = [item for item in loaded()[1].hosts if mark is None or item.has(mark.args[0])]
    metafunc.parametrize("spec", hosts, ids=[item.name for item in hosts], indirect=True)


def waived(spec: HostSpec, key: str) -> str:
    """Why this host is excused from a resource; empty if it is not."""
    return next((item.why for item in spec.settings.waivers if fnmatchcase(key, item.what)), "")


@pytest.fixture(scope="session", autouse=True)
def _close() -> Iterator[None]:
    yield
    for name in loaded()[0]:
        command = ["ssh", "-F", str(ssh_config()), "-O", "exit", name]
        testinfra.get_host("local://").run(" ".join(command) + " 2>/dev/null")
    shutil.rmtree(ssh_config().parent)
