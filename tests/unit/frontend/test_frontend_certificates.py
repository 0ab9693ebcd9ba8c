"""POST /certificates: the message of the specification, and 202 only for what the broker has confirmed."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.unit.frontend.support import Shared, World

REQUEST = {
    "contest_id": 123,
    "certificate_cutoff": 10,
    "ranking": [{"username": "user1", "place": 1}, {"username": "user2", "place": 2}],
}


def test_message(shared: Shared) -> None:
    broker = shared.broker
    answer = shared.site.post("/certificates", REQUEST)
    assert (answer.status, answer.json) == (202, {"status": "queued"})
    [message] = broker.published
    assert (message.exchange, message.routing_key) == ("certificates", "ContestQueue")
    assert (message.delivery_mode, message.mandatory, message.confirms) == (2, True, True)
    assert abs(message.body.pop("timestamp") - time.time()) < 10
    assert message.body == {"type": "generate_certificates", **REQUEST}


@pytest.mark.parametrize(
    ("options", "error", "queued"),
    [
        ({"mode": "nack"}, "rabbitmq: refused by the broker", "no"),
        ({"mode": "return"}, "rabbitmq: no queue takes the message", "no"),
        ({"mode": "silent"}, "rabbitmq: timeout", "unknown"),
        ({"exchanges": frozenset()}, "rabbitmq: not declared", "no"),
        ({"password": "another"}, "rabbitmq: access refused", "no"),
    ],
)
def test_not_confirmed(world: World, options: dict[str, Any], error: str, queued: str) -> None:
    world.broker(**options)
    answer = world.site().post("/certificates", REQUEST)
    assert answer.status == 503
    assert answer.json == {"status": "error", "error": error, "queued": queued}


def test_no_broker(world: World) -> None:
    answer = world.site().post("/certificates", REQUEST)
    assert (answer.status, answer.json["queued"]) == (503, "no")


def test_a_broker_that_returns_is_used_again(world: World) -> None:
    broker = world.broker(mode="nack")
    site = world.site()
    assert site.post("/certificates", REQUEST).status == 503
    broker.mode = "ack"
    assert site.post("/certificates", REQUEST).status == 202
    assert broker.connections == 2, "one connection for each request"


def test_no_places(shared: Shared) -> None:
    request = {"contest_id": 1, "certificate_cutoff": None, "ranking": [{"username": "1", "place": None}]}
    assert shared.site.post("/certificates", request).status == 202
    assert shared.broker.published[0].body.items() >= request.items()


def test_names_in_any_script(shared: Shared) -> None:
    names = [
        "José Ñandú",
        "محمد عبد الله",
        "מרים־לאה",
        "中村さくら",
        "김철수",
        "अनिल कुमार",
        "O'Neill",
        "مریم\u200cالسادات",
        "a" * 100,
    ]
    ranking = [{"username": name, "place": place} for place, name in enumerate(names, 1)]
    assert shared.site.post("/certificates", {**REQUEST, "ranking": ranking}).status == 202
    assert shared.broker.published[0].body["ranking"] == ranking


@pytest.mark.parametrize(
    "change",
    [
        {"contest_id": "123"},
        {"contest_id": 0},
        {"certificate_cutoff": -1},
        {"certificate_cutoff": 2**31},
        {"ranking": [{"username": "a", "place": 1}, {"username": "a", "place": 2}]},
        {"ranking": {"username": "a", "place": 1}},
        {"ranking": [{"username": "a"}]},
        {"ranking": [{"username": "<b>", "place": 1}]},
        {"ranking": [{"username": " ana", "place": 1}]},
        {"ranking": [{"username": "ana  b", "place": 1}]},
        {"ranking": [{"username": "ana\n", "place": 1}]},
        {"ranking": [{"username": "\u202eana", "place": 1}]},
        {"ranking": [{"username": "a" * 101, "place": 1}]},
        {"ranking": ["a"]},
    ],
)
def test_bad_requests_are_not_published(shared: Shared, change: dict[str, Any]) -> None:
    assert shared.site.post("/certificates", {**REQUEST, **change}).status == 422
    assert shared.broker.published == []


def test_another_site_cannot_make_a_visitor_ask(shared: Shared) -> None:
    assert shared.site.post("/certificates", form="contest_id=1").status == 415
    assert shared.broker.published == []
