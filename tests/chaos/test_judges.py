"""Outside judges on a running fleet: ssh-audit, sslyze, gixy, lynis. What they find is mended, or has its reason here.

`scripts/judges` installs the first three beside the project; lynis is Debian's package, and goes again.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.converge.inventory import folder, load
from deploy.model.catalog import Port, Service
from deploy.model.fleet import HostSpec
from deploy.roles.nginx import CONFIG as NGINX
from tests.chaos.support import INVENTORY, ROOT, on
from tests.chaos.test_mutual_tls import pair
from tests.fleet.conftest import ssh_config

pytestmark = pytest.mark.thorough

FLEET = load(folder(INVENTORY))[1]
JUDGES = ROOT / ".fleet/judges/bin"

NO_HYBRID = "the controller's SSH (paramiko) speaks no hybrid key exchange; OpenSSH's clients take sntrup761 first"
SSH_ALLOWED = {
    "curve25519-sha256": NO_HYBRID,
    "curve25519-sha256@libssh.org": NO_HYBRID,
    "diffie-hellman-group16-sha512": NO_HYBRID,
    "diffie-hellman-group18-sha512": NO_HYBRID,
}
"""Algorithm -> why its warning stands. Its test of connection rates is left out: who reaches sshd is base.ssh_from's
matter, and a controller opens many connections at once."""

GIXY_ALLOWED = {
    "unanchored_regex": "`.php` anywhere in a path is neither run nor shown, so it has no anchor",
    "try_files_is_evil_too": "a matter of speed; open_file_cache would go on serving a release that was replaced",
}
LYNIS_ALLOWED = {
    "KRNL-5830": "a boot that is needed is `fleet roll --reboot`'s to do, behind gates",
    "MAIL-8818": "no host of the fleet takes mail",
    "NETW-2705": "the lab's hosts have the one name server of the machine",
    "FIRE-4512": "nftables has the rules; lynis looks for those of iptables",
}
"""Test of lynis -> why its warning stands."""


@pytest.fixture(scope="module", autouse=True)
def _judges() -> None:
    subprocess.run([str(ROOT / "scripts/judges")], check=True, timeout=600)


@contextmanager
def tunnel(host: str, address: str, port: int) -> Iterator[int]:
    """A port here that leads, through SSH, to one that the host's firewall opens to the fleet alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        local = free.getsockname()[1]
    forward = f"127.0.0.1:{local}:{address}:{port}"
    command = ["ssh", "-F", str(ssh_config()), "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-N"]
    process = subprocess.Popen([*command, "-L", forward, host], stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", local), timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < until, f"no tunnel to {host}"
                time.sleep(0.2)
        yield local
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize("spec", FLEET.hosts, ids=lambda one: one.name)
def test_ssh_audit(spec: HostSpec) -> None:
    for port in spec.settings.base.ssh_ports:
        done = subprocess.run(
            [str(JUDGES / "ssh-audit"), "-j", "--skip-rate-test", "-p", str(port), spec.address],
            text=True, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert found["cves"] == []
        algorithms = [one for kind in ("kex", "key", "enc", "mac") for one in found[kind]]
        assert algorithms
        failed = [one["algorithm"] for one in algorithms if one["notes"].get("fail")]
        warned = [one["algorithm"] for one in algorithms if one["notes"].get("warn")]
        assert failed == []
        assert set(warned) <= set(SSH_ALLOWED)


TLS_PORTS = [
    (host, service, port)
    for host in FLEET.hosts
    for service in host.services
    for port in service.ports
    # It knows no MySQL: tests/chaos/test_mutual_tls.py tries the old versions there.
    if host.mutual(port) and not port.starttls
]


def sslyze(port: int, folder_: Path) -> dict[str, Any]:
    report = folder_ / "report.json"
    scans = ("sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "heartbleed", "openssl_ccs", "compression")
    # Servers end the connection of a client without a certificate, some before it has seen a single suite.
    shown = pair("right", "monitoring")
    assert shown
    certificate, key = folder_ / "client.crt", folder_ / "client.key"
    certificate.write_text(shown.certificate)
    key.touch(mode=0o600)
    key.write_text(shown.key)
    subprocess.run(
        [str(JUDGES / "sslyze"), *(f"--{scan}" for scan in scans), "--cert", str(certificate), "--key", str(key),
         f"--json_out={report}", f"127.0.0.1:{port}"],
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    (found,) = json.loads(report.read_text())["server_scan_results"]
    assert found["connectivity_status"] == "COMPLETED"
    return {name: one["result"] for name, one in found["scan_result"].items() if one["status"] == "COMPLETED"}


@pytest.mark.parametrize(
    ("host", "service", "port"), TLS_PORTS, ids=[f"{one[1].name}-{one[2].name}-{one[0].name}" for one in TLS_PORTS]
)
def test_sslyze(host: HostSpec, service: Service, port: Port, tmp_path: Path) -> None:
    with tunnel(host.name, host.address, port.number) as local:
        found = sslyze(local, tmp_path)
    for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert found[f"{old}_cipher_suites"]["is_tls_version_supported"] is False
    assert any(found[f"tls_{new}_cipher_suites"]["is_tls_version_supported"] for new in ("1_2", "1_3"))
    assert found["heartbleed"]["is_vulnerable_to_heartbleed"] is False
    assert found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"] is False
    assert found["tls_compression"]["supports_compression"] is False
    suites = [one["cipher_suite"]["name"] for one in found["tls_1_2_cipher_suites"]["accepted_cipher_suites"]]
    assert [name for name in suites if any(weak in name for weak in ("NULL", "RC4", "3DES", "EXPORT", "anon"))] == []
    assert [name for name in suites if "DHE" not in name] == []


@pytest.mark.parametrize("spec", FLEET.members("frontend"), ids=lambda one: one.name)
def test_gixy(spec: HostSpec, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(on(spec.name, f"cat {NGINX}"))
    done = subprocess.run(
        [str(JUDGES / "gixy"), "-f", "json", str(tmp_path / "nginx.conf")], text=True, capture_output=True, check=False,
        timeout=120,
    )  # fmt: skip
    found = {one["plugin"] for one in json.loads(done.stdout)}
    assert found - set(GIXY_ALLOWED) == set()


def test_gixy_finds_what_is_wrong(tmp_path: Path) -> None:
    """A judge that finds nothing anywhere is none."""
    bad = "events {}\nhttp { server { location ~ /v1/((?<action>[^.]*)\\.json)?$ { add_header X-Action $action; } } }\n"
    (tmp_path / "nginx.conf").write_text(bad)
    done = subprocess.run(
        [str(JUDGES / "gixy"), "-f", "json", str(tmp_path / "nginx.conf")], text=True, capture_output=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert "http_splitting" in {one["plugin"] for one in json.loads(done.stdout)}


@pytest.mark.parametrize("host", ["web1", "data1"])
def test_lynis(host: str) -> None:
    on(host, "apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -q -y "
             "--no-install-recommends lynis >/dev/null 2>&1")  # fmt: skip
    try:
        on(host, "lynis audit system --quick --quiet --no-colors --logfile /run/lynis.log "
                 "--report-file /run/lynis.dat >/dev/null 2>&1 || true")  # fmt: skip
        report = on(host, "cat /run/lynis.dat")
    finally:
        on(host, "apt-get purge -q -y lynis >/dev/null 2>&1; rm -f /run/lynis.log /run/lynis.dat /var/log/lynis*")
    lines = [line.partition("=")[2] for line in report.splitlines() if line.startswith("warning[]=")]
    assert "hardening_index=" in report, "it came to its end"
    assert {line.split("|")[0]: line for line in lines if line.split("|")[0] not in LYNIS_ALLOWED} == {}
