"""The search for secrets finds them in each form, and tells a file that may hold one from one that may not."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.model.resources import PREVIOUS, ROLLING, File
from tests.chaos.sweeping import Found, files_script, forms, misplaced, needles, parsed, within

SECRETS = {"one": "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF"}
MEANT = {"/etc/app.json": File(path="/etc/app.json", owner="root", group="app", mode=0o640, secret=True)}


@given(st.text("abcXYZ019+/ é", min_size=6, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_a_secret_is_found_within_whatever_was_encoded(secret: str, before: bytes, after: bytes) -> None:
    text = before + secret.encode() + after
    for encoded in (
        base64.b64encode(text),
        base64.urlsafe_b64encode(text),
        text.hex().encode(),
        text.hex().upper().encode(),
    ):
        assert within(encoded.decode(), {"one": secret}) == {"one"}
    assert within(f"https://x/?p={quote(secret, safe='')}&y=1", {"one": secret}) == {"one"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("raw", "password=" + SECRETS["one"]),
        ("basic", base64.b64encode(f"user:{SECRETS['one']}".encode()).decode()),
        ("hex", SECRETS["one"].encode().hex()),
        ("binary", "\0\1\2" + SECRETS["one"] + "\0"),
        ("with a space in its name", SECRETS["one"]),
    ],
)
def test_one_pass_over_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "deep").mkdir()
    planted, innocent = tmp_path / "deep" / name, tmp_path / "innocent"
    planted.write_text(content)
    planted.chmod(0o604)
    innocent.write_text("nothing " + SECRETS["one"][:-1])
    (tmp_path / "link").symlink_to(planted)
    done = subprocess.run(
        ["sh", "-euc", files_script([str(tmp_path)])],
        input=needles(SECRETS),
        text=True,
        capture_output=True,
        check=True,
    )
    found = parsed(done.stdout)
    assert [(one.path, one.mode, one.others) for one in found] == [(str(planted), 0o604, "")]
    assert misplaced(found, {}) == {str(planted): "no secret is meant to be here"}
    assert "everybody" in misplaced(found, {str(planted): File(path=str(planted))})[str(planted)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Found("/etc/app.json", 0o640, "root", "app"), ""),
        (Found(f"{PREVIOUS}/etc/app.json", 0o640, "root", "app"), ""),
        (Found(f"{ROLLING}/app.service/files/etc/app.json", 0o600, "root", "root"), ""),
        (Found("/etc/redis/cache/state.conf", 0o600, "redis", "redis"), ""),
        (Found("/etc/redis/cache/state.conf", 0o644, "redis", "redis"), "everybody"),
        (Found("/etc/app.json", 0o644, "root", "app"), "everybody"),
        (Found("/etc/app.json", 0o640, "root", "app", "eve"), "eve"),
        (Found("/etc/app.json", 0o600, "app", "app"), "instead of"),
        (Found("/etc/app.json.bak", 0o600, "root", "root"), "meant"),
        (Found(f"{ROLLING}/app.service/files/etc/other", 0o600, "root", "root"), "meant"),
    ],
)
def test_where_a_secret_may_be(found: Found, words: str) -> None:
    wrong = misplaced([found], MEANT)
    assert set(wrong) == ({found.path} if words else set())
    assert words in wrong.get(found.path, "")


def test_no_form_is_so_short_that_it_is_found_by_chance() -> None:
    assert min(map(len, forms(SECRETS["one"]))) > 30
