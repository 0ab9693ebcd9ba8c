"""Packages are signed: where apt is told not to mind, a host is refused before anything is changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.converge import checks, look
from deploy.errors import FleetError
from deploy.model.fleet import HostInput, build
from deploy.model.observed import HostFactsSeen

SOURCE = "deb [signed-by=/usr/share/keyrings/x.gpg] https://name:password@deb.example.org/debian bookworm main\n"


def unsigned(folder: Path, files: dict[str, str], config: str = "") -> list[str]:
    """What the look's shell finds in a folder that stands for /etc/apt."""
    (folder / "sources.list.d").mkdir(exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/apt-config").write_text(f"#!/bin/sh\ncat <<'END'\n{config}\nEND\n")
    (folder / "bin/apt-config").chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
    script = f"PATH={folder}/bin:$PATH\n" + look.UNSIGNED.replace("/etc/apt", str(folder))
    done = subprocess.run(["sh", "-eu"], input=script, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    assert "password" not in done.stdout
    return [line.removeprefix("unsigned\t").replace(f"{folder}/", "") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "[arch=amd64]",
        "[signed-by=/usr/share/keyrings/trusted=yes.gpg]",
        "[trusted=no]",
        "[ allow-insecure=no arch=x ]",
    ],
)
def test_sources_that_are_signed(options: str, tmp_path: Path) -> None:
    text = f"# deb [trusted=yes] https://deb.example.org x\ndeb {options} https://deb.example.org/trusted=yes x main\n"
    assert unsigned(tmp_path, {"sources.list": text, "sources.list.d/a.list": SOURCE}) == []


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("[trusted=yes]", "trusted=yes"),
        ("[ arch=amd64 Trusted=YES ]", "trusted=yes"),
        ("[allow-insecure=true signed-by=/x]", "allow-insecure=true"),
        ("[allow-weak=1]", "allow-weak=1"),
        ("[allow-downgrade-to-insecure=on]", "allow-downgrade-to-insecure=on"),
    ],
)
def test_sources_that_are_not(options: str, found: str, tmp_path: Path) -> None:
    line = f"deb {options} https://name:password@deb.example.org/debian bookworm main\n"
    assert unsigned(tmp_path, {"sources.list.d/b.list": SOURCE + line}) == [f"sources.list.d/b.list: {found}"]


def test_the_other_form_of_a_source(tmp_path: Path) -> None:
    text = "Types: deb\nURIs: https://deb.example.org\nSuites: x\nComponents: main\nTrusted: yes\n"
    assert unsigned(tmp_path, {"sources.list.d/c.sources": text}) == ["sources.list.d/c.sources: trusted=yes"]
    assert unsigned(tmp_path, {"sources.list.d/c.sources": text.replace("yes", "no")}) == []


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_options_of_apt(value: str, tmp_path: Path) -> None:
    said = f'APT::Get "";\nAPT::Get::AllowUnauthenticated "{value}";\nAcquire::AllowInsecureRepositories "0";'
    assert unsigned(tmp_path, {}, said) == ["APT::Get::AllowUnauthenticated"]


def test_what_apt_itself_says_is_understood(tmp_path: Path) -> None:
    """Its own dump, with an option of each kind."""
    done = subprocess.run(
        ["apt-config", "dump", "-o", "Acquire::AllowInsecureRepositories=1", "-o", "APT::Get::AllowUnauthenticated=1"],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    found = unsigned(tmp_path, {}, done.stdout)
    assert sorted(found) == ["APT::Get::AllowUnauthenticated", "Acquire::AllowInsecureRepositories"]


def test_a_host_is_refused_unless_the_inventory_says_why_not() -> None:
    seen = HostFactsSeen("debian", "12", 2**33, 2**33, unsigned=("/etc/apt/sources.list: trusted=yes",))

    def host(**more: object) -> object:
        built = build("test", {"x": HostInput(frozenset({"gitserver"}), {"ssh_hostname": "10.0.0.1", **more})})
        return built.host("x")

    with pytest.raises(FleetError, match=r"apt:signatures: found apt told .*sources.list: trusted=yes"):
        checks.fit(host(), seen)  # type: ignore[arg-type]
    waiver = {"what": "apt:signatures", "why": "the mirror of this test is not signed"}
    checks.fit(host(waivers=[waiver]), seen)  # type: ignore[arg-type]


def test_a_look_brings_it() -> None:
    lines = ["@@n facts", "os\tdebian", "unsigned\t/etc/apt/a.list: trusted=yes", "unsigned\tb", "@@n end"]
    assert look.parse("h", lines, "n", ()).facts.unsigned == ("/etc/apt/a.list: trusted=yes", "b")
