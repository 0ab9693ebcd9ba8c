"""What a member of the broker's cluster ends by itself: which state it is in, and that one member alone acts."""

from __future__ import annotations

import itertools
import subprocess

import pytest

from deploy.converge.desired import render

MEMBERS = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
AWAY = "erl_call: failed to connect to node"


def said(own: str, *words: str) -> str:
    lines = "".join(f"{address} {text}\n" for address, text in zip(MEMBERS, words, strict=True))
    command = ["awk", "-v", f"own={own}", render("rabbitmq/watch.awk.j2")]
    return subprocess.run(command, input=lines, text=True, capture_output=True, check=True).stdout.strip()


def acts(*words: str) -> dict[str, str]:
    """Member -> what it finds itself to be; those that find something."""
    found = {own: said(own, *words) for own in MEMBERS}
    return {own: state for own, state in found.items() if state}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(("up 3 3", "up 3 3", "up 3 3"), {}, id="well"),
        pytest.param(("up 2 3", AWAY, "up 2 3"), {}, id="one away"),
        pytest.param(("up 2 3", "paused 100", "up 2 3"), {"10.0.0.2": "hangs"}, id="one hangs"),
        pytest.param(("up 2 3", "starting 100", "up 2 3"), {"10.0.0.2": "hangs"}, id="one hangs on its way"),
        pytest.param(
            ("starting 100", "starting 100", "paused 130"),
            {"10.0.0.3": "hangs"},
            id="two wait for one that hangs",
        ),
        pytest.param((AWAY, "starting 100", "paused 130"), {"10.0.0.3": "hangs"}, id="one waits for one that hangs"),
        pytest.param((AWAY, AWAY, "paused 130"), {}, id="one pauses rightly"),
        pytest.param(("up 1 3", "up 2 3", "up 2 3"), {"10.0.0.1": "apart"}, id="one shares with nobody"),
        pytest.param(("up 2 3", "up 2 3", "up 3 3"), {"10.0.0.2": "apart"}, id="two do not share"),
        pytest.param(("up 1 3", "up 1 3", "up 1 3"), {"10.0.0.3": "apart"}, id="nobody shares"),
        pytest.param(("up 1 3", "up 1 3", AWAY), {}, id="parted, but without a majority to spare"),
        pytest.param(("up 1 1", "up 2 2", "up 2 2"), {}, id="one in a cluster of its own"),
        pytest.param(("starting 100", "starting 130", AWAY), {"10.0.0.2": "orphaned"}, id="two wait for the third"),
        pytest.param(("starting 130", "starting 130", AWAY), {"10.0.0.1": "orphaned"}, id="at the same time"),
        pytest.param(
            (AWAY, "starting 1790000130", "starting 1790000099"), {"10.0.0.2": "orphaned"}, id="the later one"
        ),
        pytest.param(("starting 100", AWAY, AWAY), {}, id="one alone"),
        pytest.param(
            ("starting 100", "starting 130", "starting 120"), {}, id="all are there, and settle it themselves"
        ),
    ],
)
def test_who_acts(words: tuple[str, ...], expected: dict[str, str]) -> None:
    assert acts(*words) == expected


def test_never_two_at_once() -> None:
    """But for those that hang, and serve nobody."""
    every = ("up 1 3", "up 2 3", "starting 100", "paused 200", AWAY)
    for words in itertools.product(every, repeat=3):
        found = [state for state in acts(*words).values() if state != "hangs"]
        assert len(found) <= 1, words
        assert found != ["apart"] or all(word.startswith("up") for word in words)
        assert found != ["orphaned"] or not any(word.startswith("up") for word in words)
