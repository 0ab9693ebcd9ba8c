"""The real keys and the authority of the tests of trust."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deploy.trust.authority import KEY, OFFLINE, SIDECAR, Authority
from tests.unit.trust.conftest import alice, authority, csr, keys, leaf_key, signer

__all__ = ["alice", "authority", "csr", "here", "keys", "leaf_key", "signer"]


@pytest.fixture
def here(tmp_path: Path, authority: Authority) -> Authority:
    """What a controller has of an authority whose key is elsewhere: all but the key."""
    shutil.copytree(authority.directory, tmp_path / "here")
    for name in (KEY, SIDECAR):
        (tmp_path / "here" / name).unlink()
    (tmp_path / "here" / OFFLINE).touch()
    return Authority.load(tmp_path / "here")
