"""Writing and locking: the old content or the new one, and one writer at a time."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from deploy.errors import FleetError
from deploy.trust import files
from deploy.trust.authority import Authority, Signer
from deploy.trust.certificates import LeafProfile


def test_the_mode_is_exact_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "public", b"x", files.PUBLIC)
    finally:
        os.umask(before)
    files.write_atomic(tmp_path / "private", b"x")
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "secrets.age")
    files.write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "secrets.age").read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "secrets.age"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FleetError, match=r"secrets.age: found cannot write: No space left on device"):
        files.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot write: No such file or directory"):
        files.write_atomic(tmp_path / "absent" / "x", b"x")


def test_a_held_lock_is_told_after_the_timeout(tmp_path: Path) -> None:
    with (
        files.locked(tmp_path / ".lock"),
        pytest.raises(FleetError, match=r"\.lock: found held by another process for over 0\.1 s"),
        files.locked(tmp_path / ".lock", timeout=0.1),
    ):
        pytest.fail("two holders")


def test_signing_waits_for_the_authority_s_lock(
    authority: Authority, signer: Signer, csr: str, grader: LeafProfile
) -> None:
    done: list[float] = []

    def sign() -> None:
        signer.sign(csr, grader)
        done.append(time.monotonic())

    thread = threading.Thread(target=sign)
    with files.locked(authority.directory / ".lock"):
        thread.start()
        time.sleep(0.4)
        assert authority.journal() == ()
        released = time.monotonic()
    thread.join(30)
    assert done[0] >= released
    assert len(authority.journal()) == 1
