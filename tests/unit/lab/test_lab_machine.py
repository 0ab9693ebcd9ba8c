"""The journal of what is changed on the machine, against a machine of paper."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest

from lab import machine, paths
from lab.errors import LabError
from lab.machine import FORWARD, INOTIFY
from lab.spec import LabSpec


def lab(name: str, number: int) -> LabSpec:
    network = ipaddress.IPv4Network(f"10.{number}.0.0/24")
    return LabSpec(name, f"lab{number}", network, "bookworm", {"a": network[11]})


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    values = {INOTIFY: "128", FORWARD: "0"}
    monkeypatch.setattr(paths, "RUNTIME", tmp_path / "run")
    monkeypatch.setattr(machine, "sysctl", values.__getitem__)
    monkeypatch.setattr(machine, "set_sysctl", values.__setitem__)
    monkeypatch.setattr(machine, "boot_id", lambda: "this-boot")
    monkeypatch.setenv("FLEET_LAB_STATE", str(tmp_path / "state"))
    return values


def test_the_last_lab_puts_parameters_back(kernel: dict[str, str]) -> None:
    machine.enter(lab("one", 1))
    assert kernel == {INOTIFY: "8192", FORWARD: "1"}
    machine.enter(lab("two", 2))
    machine.enter(lab("two", 2))
    machine.leave("lab1")
    assert kernel == {INOTIFY: "8192", FORWARD: "1"}
    machine.leave("lab2")
    assert kernel == {INOTIFY: "128", FORWARD: "0"}
    assert not paths.RUNTIME.exists()
    machine.leave("lab2")


def test_larger_values_are_left_alone(kernel: dict[str, str]) -> None:
    kernel[INOTIFY] = "65536"
    machine.enter(lab("one", 1))
    assert kernel[INOTIFY] == "65536"
    machine.leave("lab1")
    assert kernel == {INOTIFY: "65536", FORWARD: "0"}


def test_it_is_noted_before_it_is_done(kernel: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def die(name: str, value: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine, "set_sysctl", die)
        with pytest.raises(KeyboardInterrupt):
            machine.enter(lab("one", 1))
    assert [note["bridge"] for note in machine.notes()] == ["lab1"]
    kernel[INOTIFY] = "8192"  # as if it had died right after this
    machine.leave("lab1")
    assert kernel[INOTIFY] == "128"


def test_a_bridge_belongs_to_one_lab(kernel: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine.enter(lab("one", 1))
    with pytest.raises(LabError, match="another lab uses it"):
        machine.enter(lab("other", 1))
    with pytest.raises(LabError, match="it is up as lab1"):
        machine.enter(lab("one", 2))
    assert machine.foreign(lab("other", 1))
    assert not machine.foreign(lab("one", 1))
    monkeypatch.setenv("FLEET_LAB_STATE", "/elsewhere")
    assert machine.foreign(lab("one", 1))
    with pytest.raises(LabError, match="another lab uses it"):
        machine.enter(lab("one", 1))


def test_notes_of_an_earlier_boot_are_void(kernel: dict[str, str]) -> None:
    old = {"boot": "earlier", "base": "/x", "bridge": "lab9", "network": "10.9.0.0/24"}
    (paths.RUNTIME / "labs").mkdir(parents=True)
    (paths.RUNTIME / "labs" / "lab9.json").write_text(json.dumps(old))
    (paths.RUNTIME / "sysctl.json").write_text(json.dumps({"boot": "earlier", INOTIFY: "1", FORWARD: "1"}))
    assert machine.notes() == []
    machine.enter(lab("one", 1))
    machine.leave("lab1")
    assert kernel == {INOTIFY: "128", FORWARD: "0"}
    assert not paths.RUNTIME.exists()
