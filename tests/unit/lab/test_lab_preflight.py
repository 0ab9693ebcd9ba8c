from __future__ import annotations

import ipaddress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import network, preflight, shaping
from lab.errors import LabError
from lab.spec import LabSpec

SPEC = LabSpec(
    "lab", "lab-0", ipaddress.IPv4Network("10.77.0.0/24"), "bookworm", {"a": ipaddress.IPv4Address("10.77.0.11")}
)


def test_missing_tools_are_named_as_packages(tmp_path: Path) -> None:
    (tmp_path / "keyring").write_text("")
    have = set(preflight.TOOLS) - {"systemd-nspawn", "nft", "ip", "tc"}
    missing = preflight.missing_packages(lambda tool: tool if tool in have else None, tmp_path / "keyring")
    assert missing == ["iproute2", "nftables", "systemd-container"]
    assert preflight.missing_packages(lambda tool: tool, tmp_path / "keyring") == []
    assert preflight.missing_packages(lambda tool: tool, tmp_path / "no") == ["debian-archive-keyring"]


def test_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "missing_packages", lambda: ["mmdebstrap", "nftables"])
    monkeypatch.delenv("FLEET_LAB_INSTALL", raising=False)
    with pytest.raises(LabError) as caught:
        preflight.check(SPEC, 1, install=False, progress=print)
    assert "apt-get install mmdebstrap nftables" in caught.value.hint
    assert "--install" in caught.value.hint


def test_it_installs_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed(Exception):
        pass

    def install(packages: list[str], progress: object) -> None:
        raise Installed(*packages)

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "missing_packages", lambda: ["nftables"])
    monkeypatch.setattr(preflight, "install_packages", install)
    monkeypatch.setenv("FLEET_LAB_INSTALL", "1")
    with pytest.raises(Installed, match="nftables"):
        preflight.check(SPEC, 1, install=False, progress=print)


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="not root"):
        preflight.check_root()


def test_memory_of_256_mib_a_host() -> None:
    preflight.check_memory(8, 2048)
    with pytest.raises(LabError, match="2048 MiB for 8 hosts"):
        preflight.check_memory(8, 2047)


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a GiB for each host where their disks are, a GiB where the base image is."""
    monkeypatch.setenv("FLEET_LAB_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("FLEET_LAB_CACHE", str(tmp_path / "cache"))
    free = {"state": 4096, "cache": 1024}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[path.name] * 2**20))
    preflight.check_disk(8)
    free["state"] = 4095
    with pytest.raises(LabError, match=r"4095 MiB free.*\n.*4096 MiB.*\n.*FLEET_LAB_STATE"):
        preflight.check_disk(8)
    free.update(state=4096, cache=1023)
    with pytest.raises(LabError, match="1024 MiB"):
        preflight.check_disk(8)


def test_no_overlayfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "filesystems").write_text("nodev\tproc\n\text4\n")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LabError, match="no overlayfs"):
        preflight.check_overlay(tmp_path / "filesystems")
    (tmp_path / "filesystems").write_text("nodev\toverlay\n")
    preflight.check_overlay(tmp_path / "filesystems")


def fake_ip(monkeypatch: pytest.MonkeyPatch, addresses: list[dict[str, Any]], routes: list[dict[str, Any]]) -> None:
    def ip_json(*args: str) -> list[dict[str, Any]]:
        return {"addr": addresses, "route": routes}.get(args[1] if args[0] == "-4" else args[0], [])

    monkeypatch.setattr(network, "ip_json", ip_json)


def address(name: str, local: str, length: int) -> dict[str, Any]:
    return {"ifname": name, "addr_info": [{"local": local, "prefixlen": length}]}


def test_the_network_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ip(monkeypatch, [address("eth0", "10.77.3.4", 16)], [])
    with pytest.raises(LabError, match=r"eth0 has 10\.77\.0\.0/16"):
        network.check_free(SPEC)
    fake_ip(monkeypatch, [], [{"dst": "default", "dev": "eth0"}, {"dst": "10.77.0.0/25", "dev": "tun0"}])
    with pytest.raises(LabError, match=r"route to 10\.77\.0\.0/25 by tun0"):
        network.check_free(SPEC)
    fake_ip(monkeypatch, [address("lab-0", "10.77.0.1", 24), address("eth0", "192.0.2.2", 24)], [])
    network.check_free(SPEC)


def test_a_bridge_of_someone_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ip_json", lambda *args: [{"address": "02:42:00:00:00:01", "addr_info": []}])
    with pytest.raises(LabError, match="no lab's"):
        network.check_free(SPEC)


def test_rules() -> None:
    assert "table ip fleet_lab_lab_0 {" in network.ruleset(SPEC)
    assert "ip saddr 10.77.0.0/24 ip daddr != 10.77.0.0/24 masquerade" in network.ruleset(SPEC)
    loss = shaping.loss_rules("t", "data-1", "vb-x", 12.5)
    assert 'add rule bridge t loss_in_data_1 iifname "vb-x" numgen random mod 10000 <= 1249 drop' in loss
    assert 'add rule bridge t loss_out_data_1 oifname "vb-x" numgen random mod 10000 <= 1249 drop' in loss
    assert "drop" not in shaping.loss_rules("t", "data-1", "vb-x", 0)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("type filter hook forward priority filter; policy accept;", ""),
        ("type filter hook forward priority filter; policy drop;", "iptables -I FORWARD -i lab-0"),
        ("chain DOCKER-USER {}\ntype filter hook forward priority filter; policy drop;", "iptables -I DOCKER-USER"),
    ],
)
def test_another_firewall_that_drops(monkeypatch: pytest.MonkeyPatch, rules: str, told: str) -> None:
    class Done:
        stdout = rules

    monkeypatch.setattr(network, "run", lambda argv, check: Done)
    warning = network.forward_blocker(SPEC)
    assert told in warning
    assert bool(told) == bool(warning)
