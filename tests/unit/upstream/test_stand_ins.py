"""The inventory of stand-ins for the lab: fit, its releases unpack, and its programs take what is rendered."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.converge import parcels
from deploy.converge.inventory import load
from deploy.errors import FleetError, FleetErrors
from deploy.model.fleet import Fleet
from deploy.model.resources import Delivery, File, Parcel
from deploy.procedures import apply
from deploy.roles import upstream_release
from tests.unit.upstream.fleets import resources
from tests.upstream_lab import LIMIT, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "up-lab")
    return tmp_path / "up-lab"


@pytest.fixture
def fleet(folder: Path) -> Fleet:
    return load(folder)[1]


def test_the_hosts_of_the_limit_need_nobody_else(fleet: Fleet) -> None:
    hosts = set(LIMIT.split(","))
    assert {host.name for host in fleet.hosts} - hosts == {"db1"}
    assert fleet.witnesses() <= hosts


def test_every_release_unpacks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_release, "HOME", str(tmp_path / "opt"))
    monkeypatch.setattr(upstream_release, "PARCELS", str(tmp_path / "parcel"))
    fleet = load(folder)[1]
    done: set[str] = set()
    for host in fleet.hosts:
        for item in resources(fleet, host.name).values():
            if not isinstance(item, Delivery) or item.key in done:
                continue
            done.add(item.key)
            for parcel in item.parcels:
                Path(parcel.path).write_bytes(parcels.found(folder, item.key, parcel).read_bytes())
            home = re.search(r"mktemp -d (\S+)/\.unpack", item.act)
            assert home
            Path(home[1], "releases").mkdir(parents=True)
            ran = subprocess.run(["/bin/sh", "-eu"], input=item.act, text=True, capture_output=True, check=False)
            assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(done) == 6


def test_what_is_missing_is_said_before_anything_is_changed(folder: Path) -> None:
    fleet = load(folder)[1]
    item = resources(fleet, "web1")["release frontend: unpacked"]

    class Stub:
        inventory = folder

    class Planned:
        key, script, resource = "release frontend: unpacked", "x", item

    plan: Any = [[Planned(), Planned()], []]
    apply._parcels_are_there(Stub(), plan)  # type: ignore[arg-type]
    with (folder / "releases/frontend.tar.xz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FleetErrors) as found:
        apply._parcels_are_there(Stub(), plan)  # type: ignore[arg-type]
    assert len(found.value.errors) == 1
    assert "frontend.tar.xz with sha256" in str(found.value)


class Host:
    """pyinfra's host, as far as sending goes."""

    name = "web1"

    def __init__(self, answer: bool | Exception, **data: Any) -> None:
        self.data, self.answer, self.sent = data, answer, []  # type: ignore[var-annotated]

    def put_file(self, *words: Any, **arguments: Any) -> bool:
        self.sent.append((words, arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_sending(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    parcel = Parcel("x.tar", digest, "/var/lib/fleet/parcel-x")
    host: Any = Host(True, _sudo=True, ssh_user="deploy")
    parcels.send(host, tmp_path, "release x: unpacked", [parcel])
    assert host.sent == [((str(tmp_path / "x.tar"), "/var/lib/fleet/parcel-x"), {"_sudo": True})]
    for answer, words in ((False, "the transfer failed"), (OSError("no space"), "OSError: no space")):
        broken: Any = Host(answer)
        with pytest.raises(FleetError, match=f"web1: release x: unpacked: found {words}") as found:
            parcels.send(broken, tmp_path, "release x: unpacked", [parcel])
        assert "room in /var" in found.value.hint
    untouched: Any = Host(True)
    with pytest.raises(FleetError):
        parcels.send(untouched, tmp_path, "release x: unpacked", [replace(parcel, sha256="0" * 64)])
    assert untouched.sent == []


def test_the_stand_ins_take_the_real_configuration(folder: Path, fleet: Fleet, tmp_path: Path) -> None:
    """Each tells systemd that it is ready: it has read its file, its pair, and listens."""
    wanted = resources(fleet, "app1")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2",
         "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "problems.git").mkdir()
    for service, release in (
        ("grader", "backend"), ("broadcaster", "backend"), ("gitserver", "gitserver"), ("runner", "runner"),
    ):  # fmt: skip
        subprocess.run(["tar", "xf", str(folder / f"releases/{release}.tar.xz")], cwd=tmp_path, check=True)
        item = wanted[f"file:/etc/omegaup/{service}/config.json"]
        assert isinstance(item, File)
        text = item.content.replace("/var/lib/omegaup", str(tmp_path))
        text = text.replace(f"/etc/omegaup/{service}/", f"{tmp_path}/")
        # Ports of nobody's on this machine.
        text = re.sub(r'(Port": )\d+', r"\g<1>0", text)
        json.loads(text)
        (tmp_path / "config.json").write_text(text)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(tmp_path / f"{service}.sock"))
            systemd.settimeout(20)
            running = subprocess.Popen(
                [sys.executable, f"usr/bin/omegaup-{service}", "-config", "config.json"], cwd=tmp_path,
                env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / f"{service}.sock")},
            )  # fmt: skip
            try:
                assert systemd.recv(100) == b"READY=1"
            finally:
                running.terminate()
                running.wait(20)
