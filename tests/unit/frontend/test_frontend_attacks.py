"""What the frontend makes of bodies that no client of its own would send: the sender's fault, never its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests import attacks
from tests.unit.frontend.fakes import Redis
from tests.unit.frontend.support import World

POSTS = ("/submit", "/certificates", "/login")


@pytest.fixture
def site(world: World) -> Any:
    world.redis()
    world.redis(Redis.SESSION_KEYS)
    world.grader(), world.broker()
    return world.site()


def test_what_is_no_json_is_refused(site: Any) -> None:
    for path in POSTS:
        for name, body in attacks.malformed_json().items():
            answer = site.post(path, body)
            assert 400 <= answer.status < 500, (path, name, answer.status, answer.text[:200])


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "1e999", "0x10", "\u0661", "1' OR '1'='1", "%00", "a" * 5000])
def test_numbers_and_words_that_are_none(site: Any, number: str) -> None:

    for path in (
        f"/schools/rank?page={quote(number)}&length={quote(number)}", f"/tags?prefix={quote(number)}",
        f"/contest/{quote(number, safe='')}/scoreboard", f"/problem/{quote(number, safe='')}/statement/es",
        f"/problem/sumas/statement/{quote(number, safe='')}", f"/certificate/{quote(number, safe='')}",
        f"/submission/{quote(number, safe='')}",
    ):  # fmt: skip
        answer = site.get(path)
        # 503: what it would have asked is not there in this test.
        assert 400 <= answer.status < 500 or answer.status in {200, 503}, (path[:60], answer.status, answer.text[:200])


@pytest.mark.parametrize("cookie", ["omegaup=", "omegaup=../../etc/passwd", "omegaup=%00", "omegaup=" + "a" * 4000,
                                    "omegaup[]=1", "PHPSESSID=../../x", "omegaup=\xff"])  # fmt: skip
def test_sessions_that_are_none(site: Any, cookie: str) -> None:
    answer = site.get("/session", headers={"Cookie": cookie})
    assert 400 <= answer.status < 500 or answer.status == 200, (answer.status, answer.text)
