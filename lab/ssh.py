"""Keys of a lab, made on the controller: hosts are known before they first boot."""

from __future__ import annotations

import os
from pathlib import Path

from lab.paths import LabPaths
from lab.spec import LabSpec
from lab.system import locked, run, write_atomic


def _ensure_key(path: Path, comment: str) -> None:
    if path.exists() and path.with_name(path.name + ".pub").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(temp)])
    temp.with_name(temp.name + ".pub").rename(path.with_name(path.name + ".pub"))
    temp.rename(path)


def host_key(path: Path) -> tuple[str, str]:
    """The host's key pair (private, public): the same for the life of the lab."""
    _ensure_key(path, path.name)
    return path.read_text(), path.with_name(path.name + ".pub").read_text()


def client_public_key(path: Path) -> str:
    """Public part of the lab's key, with which one logs in to its hosts."""
    _ensure_key(path, "fleet-lab")
    # Under sudo the key is the person's who asked, so that only the lab itself takes root.
    if owner := os.environ.get("SUDO_UID"):
        os.chown(path, int(owner), -1)
    return path.with_name(path.name + ".pub").read_text()


def pin(spec: LabSpec) -> None:
    """Make all keys of the lab that are not there, and write its known_hosts.

    Every host of the inventory is in it, by address and by name.
    """
    lab = LabPaths.of(spec)
    with locked(lab.base / "run" / "ssh.lock"):
        client_public_key(lab.client_key)
        lines = []
        for host, address in spec.hosts.items():
            kind, key = host_key(lab.host(host).host_key)[1].split()[:2]
            lines.append(f"{address},{host} {kind} {key}\n")
        text = "".join(lines)
        if not lab.known_hosts.exists() or lab.known_hosts.read_text() != text:
            write_atomic(lab.known_hosts, text)


def argv(spec: LabSpec, host: str, user: str = "root") -> list[str]:
    """The ssh command for a host; a command to run there may follow."""
    lab = LabPaths.of(spec)
    return [
        "ssh",
        "-F",
        "none",
        "-i",
        str(lab.client_key),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        f"UserKnownHostsFile={lab.known_hosts}",
        "-o",
        "GlobalKnownHostsFile=none",
        "-o",
        "PasswordAuthentication=no",
        "-o",
        "ConnectTimeout=10",
        f"{user}@{spec.address(host)}",
    ]
