"""A CA whose key is never where the fleet is deployed from: from a bare host to its second certificates, a revoked one,
and another CA. The other machine is a folder here; what the controller has of the CA is seen to be without the key.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import lab
from deploy.converge import inventory
from deploy.model.catalog import SSL_DIR
from deploy.procedures.pki import canaries
from deploy.trust.authority import KEY, OFFLINE, SIDECAR
from lab import LabSpec
from tests.chaos.support import OF_RUNS, ROOT

pytestmark = pytest.mark.thorough
HOST = "all1"


class Apart:
    """A copy of the `single` inventory, and the folder that stands for the other machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.vault, self.stick = folder / "single", folder / "vault", folder / "stick"
        shutil.copytree(inventory.folder("single"), self.folder, ignore=OF_RUNS)
        for left in ("secrets.age", "secrets.recipients"):
            (self.folder / left).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "pki", ignore_errors=True)
        self.spec = LabSpec.load(self.folder)

    def fleet(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [str(ROOT / "fleet"), *words], cwd=ROOT, text=True, capture_output=True, timeout=900,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == code, said[-4000:]
        return said

    def on(self, script: str) -> str:
        done = lab.exec_(self.spec, HOST, ["sh", "-euc", script], timeout=120)
        assert done.returncode == 0, f"{script!r}: {done.stdout[-500:]}{done.stderr[-500:]}"
        return str(done.stdout)

    def authorities(self) -> set[str]:
        """Fingerprints of what the host trusts."""
        script = f"openssl storeutl -certs -noout -text {SSL_DIR}/ca.crt | grep -A1 'X509v3 Subject Key Identifier'"
        return set(re.findall(r"(?:[0-9A-F]{2}:){19}[0-9A-F]{2}", self.on(script)))

    def signed(self, *words: str) -> str:
        """What is owed goes there and comes back; what `accept` says."""
        here, identity = str(self.folder), inventory.own_identity(self.folder)
        shutil.rmtree(self.stick, ignore_errors=True)
        self.fleet("pki", "requests", here, str(self.stick), *words)
        self.fleet("pki", "sign", str(self.stick), "--ca", str(self.vault), "--identity", str(identity), "--yes")
        return self.fleet("pki", "accept", here, str(self.stick))

    def is_well(self) -> None:
        here = str(self.folder)
        self.fleet("status", here, "--wait", "60")
        self.fleet("pki", "verify", here)
        self.fleet("plan", here)

    def serials(self) -> dict[str, str]:
        """Certificate -> its serial on the host."""
        script = f'for c in {SSL_DIR}/*.crt; do echo "$c $(openssl x509 -noout -serial -in $c)"; done'
        return dict(line.split(" ", 1) for line in self.on(script).splitlines() if "/ca.crt" not in line)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    made = Apart(tmp_path)
    here = str(made.folder)
    made.fleet("lab", "up", here)
    try:
        made.fleet("secrets", "init", here)
        shutil.copytree(made.folder / "pki", made.vault)
        for name in (KEY, SIDECAR):
            (made.folder / "pki" / name).unlink()
        (made.folder / "pki" / OFFLINE).touch()
        yield made
        assert not list(made.folder.rglob(KEY)), "the key was never here"
    finally:
        made.fleet("lab", "down", here)


def test_a_fleet_whose_ca_is_elsewhere(apart: Apart) -> None:
    here = str(apart.folder)
    packages = apart.on("dpkg-query -W | sha256sum")
    refused = apart.fleet("apply", here, code=1)
    assert "signed where the CA's key is" in refused
    assert "fleet pki requests" in refused
    assert apart.on("dpkg-query -W | sha256sum") == packages, "nothing was begun"

    assert "next: fleet apply" in apart.signed()
    assert "next: fleet apply" in apart.signed(), "asked for once more, say since somebody lost the folder"
    apart.fleet("apply", here)
    apart.is_well()
    keys = apart.on(f"stat -c '%a %n' {SSL_DIR}/*.key").splitlines()
    assert keys
    assert {line.split()[0] for line in keys} == {"400"}

    first = apart.serials()
    apart.fleet("pki", "renew", here, "--all")
    assert apart.serials() == first, "they wait for a signature"
    assert "signature pending" in apart.fleet("plan", here, code=2)
    apart.signed()
    second = apart.serials()
    assert {name for name in first if first[name] == second[name]} == set()

    runner = second[f"{SSL_DIR}/runner.crt"].removeprefix("serial=")
    apart.fleet("pki", "revoke", here, f"{HOST}/runner", "--reason", "key-compromise", code=1)
    apart.signed()
    assert runner in apart.on(f"openssl crl -noout -text -in {SSL_DIR}/ca.crl")
    assert apart.serials()[f"{SSL_DIR}/runner.crt"] != f"serial={runner}"
    apart.is_well()
    journal = (apart.folder / "pki/index.jsonl").read_text().splitlines()
    assert {json.loads(line)["requester"] for line in journal} == {HOST}

    old = apart.authorities()
    assert "--next-ca" in apart.fleet("pki", "roll-ca", here, code=1)
    assert apart.authorities() == old
    assert "next: fleet pki roll-ca" in apart.signed("--next-ca")
    said = apart.fleet("pki", "roll-ca", here, code=1)
    assert "trust: every host trusts both authorities: proven" in said
    assert "fleet pki accept; then fleet pki roll-ca again" in said, "nobody here signs for the new one"
    both = apart.authorities()
    assert both > old
    apart.signed()
    assert "complete" in apart.fleet("pki", "roll-ca", here)
    assert apart.authorities() == both - old
    third = apart.serials()
    assert {name for name in third if third[name] == second[name]} == set()
    assert not (apart.folder / "pki" / canaries.KEPT).exists()
    apart.is_well()
    # And the one that came after signs as the first did.
    apart.fleet("pki", "renew", here, "--all")
    apart.signed()
    assert {name for name in third if third[name] == apart.serials()[name]} == set()
