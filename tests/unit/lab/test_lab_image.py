from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lab import image
from lab.errors import LabError
from lab.system import locked


def test_the_key_changes_with_each_part_of_what_it_names() -> None:
    base = image.image_key("bookworm", ("systemd",), 1, "deb x")
    assert base == image.image_key("bookworm", ("systemd",), 1, "deb x")
    others = {
        image.image_key("trixie", ("systemd",), 1, "deb x"),
        image.image_key("bookworm", ("systemd", "sudo"), 1, "deb x"),
        image.image_key("bookworm", ("systemd",), 2, "deb x"),
        image.image_key("bookworm", ("systemd",), 1, "deb y"),
    }
    assert len(others | {base}) == 5
    assert base.startswith("bookworm-")


def test_the_mirror_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEET_LAB_MIRROR", raising=False)
    before = image.current_key("bookworm")
    monkeypatch.setenv("FLEET_LAB_MIRROR", "http://mirror.test/debian")
    assert image.current_key("bookworm") != before


def test_hosts_are_bare() -> None:
    assert not {"python3", "python3-minimal", "curl", "nftables"} & set(image.PACKAGES)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEET_LAB_CACHE", str(tmp_path / "cache"))
    now = time.time()
    for age, key in enumerate(["new", "newer", "used", "unused", "abandoned"]):
        (image.images_dir() / key / "root").mkdir(parents=True)
        os.utime(image.images_dir() / key, (now - age, now - age))
    return tmp_path


def test_old_images_go_unless_a_host_stands_on_them(cache: Path) -> None:
    meta, gone = cache / "host.json", cache / "gone.json"
    meta.write_text(json.dumps({"image": "used"}))
    image.note_user("used", meta)
    image.note_user("used", meta)
    image.note_user("abandoned", gone)
    image.note_user("unused", meta)  # the host was reset, and stands on another now
    for age, key in enumerate(["new", "newer", "used", "unused", "abandoned"]):
        os.utime(image.images_dir() / key, (1e9 - age, 1e9 - age))
    assert sorted(image.prune()) == ["abandoned", "unused"]
    assert sorted(p.name for p in image.images_dir().iterdir()) == ["new", "newer", "used"]


def test_half_made_images_are_swept_unless_one_is_being_made(cache: Path) -> None:
    half = image.images_dir() / ".key.1.tmp"
    half.mkdir()
    with locked(cache / "cache" / "image.lock"):
        image.sweep_if_idle()
        assert half.exists()
    image.sweep_if_idle()
    assert not half.exists()


def test_a_failed_build_says_why_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = cache / "bin"
    tools.mkdir()
    (tools / "setpriv").write_text("#!/bin/sh\necho 'E: no such suite' >&2\nexit 25\n")
    (tools / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(LabError, match="no such suite"):
        image.ensure("bookworm", lambda text: None, cache / "image.log")
    assert "no such suite" in (cache / "image.log").read_text()
    assert not list(image.images_dir().glob(".*"))
