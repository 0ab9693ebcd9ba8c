from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.errors import LabError
from lab.spec import INVENTORIES, LabSpec

GOOD: dict[str, Any] = {
    "bridge": "lab0",
    "network": "10.77.0.0/24",
    "suite": "bookworm",
    "hosts": {"data1": "10.77.0.11", "web1": "10.77.0.21"},
}


def test_a_good_one() -> None:
    spec = LabSpec.parse("lab", GOOD)
    assert str(spec.gateway) == "10.77.0.1"
    assert spec.address("web1") == "10.77.0.21"
    assert spec.machine("web1") == "lab0-web1"
    assert spec.table == "fleet_lab_lab0"
    assert spec.select(None) == ("data1", "web1")
    assert spec.select(["web1"]) == ("web1",)
    with pytest.raises(LabError, match="no host of this name"):
        spec.address("data9")
    with pytest.raises(TypeError):
        spec.hosts["x"] = spec.gateway  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bridge": "a-name-of-16-char"}, "at most 15"),
        ({"bridge": "Lab0"}, "lower-case"),
        ({"bridge": "lab 0"}, "lower-case"),
        ({"bridge": 5}, "bridge 5"),
        ({"network": "10.77.0.5/24"}, "host bits set"),
        ({"network": "nonsense"}, "an IPv4 network"),
        ({"network": "8.8.8.0/24"}, "private network"),
        ({"network": "10.0.0.0/8"}, "/16 to /29"),
        ({"suite": "jessie"}, "bookworm"),
        ({"hosts": {}}, "no hosts"),
        ({"hosts": {"data1": "10.78.0.11"}}, "an address in 10.77.0.0/24"),
        ({"hosts": {"data1": "10.77.0.1"}}, "gateway"),
        ({"hosts": {"data1": "10.77.0.255"}}, "broadcast"),
        ({"hosts": {"data1": "10.77.0.11", "data2": "10.77.0.11"}}, "data1's already"),
        ({"hosts": {"data1": "here"}}, "an IPv4 address"),
        ({"hosts": {"data1": 11}}, "an address in"),
        ({"hosts": {"Data_1": "10.77.0.11"}}, "host name"),
        ({"hosts": {"../data1": "10.77.0.11"}}, "host name"),
        ({"hosts": {"d" * 33: "10.77.0.11"}}, "host name"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError) as caught:
        LabSpec.parse("lab", GOOD | change, "some/lab.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("some/lab.toml: ")


def test_a_missing_key() -> None:
    with pytest.raises(LabError, match="no 'network'"):
        LabSpec.parse("lab", {k: v for k, v in GOOD.items() if k != "network"})


@pytest.mark.parametrize("name", ["", "Lab", "a/b", "x" * 33, "-a"])
def test_names_that_cannot_be_folders_of_state(name: str) -> None:
    with pytest.raises(LabError, match="cannot name a lab"):
        LabSpec.parse(name, GOOD)


def test_the_inventories_of_the_project() -> None:
    lab, single = LabSpec.load("lab"), LabSpec.load("single")
    assert len(lab.hosts) == 8
    assert list(single.hosts) == ["all1"]
    assert lab.bridge != single.bridge
    assert not lab.network.overlaps(single.network)
    assert LabSpec.load(INVENTORIES / "lab") == lab


@pytest.mark.parametrize(
    ("write", "message"),
    [(lambda p: None, "no lab here"), (lambda p: p.write_text("bridge ="), "not TOML")],
)
def test_a_file_that_is_none(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "lab.toml")
    with pytest.raises(LabError, match=message):
        LabSpec.load(folder)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"known: .*lab, single"):
        LabSpec.load("nope")
