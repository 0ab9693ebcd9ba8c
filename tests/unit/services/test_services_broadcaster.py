"""Events: to whom, what was missed, who lags, and Redis as a part of health."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from omegaup_services.broadcaster import Broadcaster, Channels
from omegaup_services.config import Events, Redis
from omegaup_services.schema import Secret

from tests.unit.services.support import Authority, Client, broadcaster_config, context, free_port, running

EVENT = {"contest": "omi", "event": "run", "data": {"verdict": "AC"}}


def test_history_is_bounded_and_told_from_the_last_id() -> None:
    channels = Channels(Events(history=3, max_contests=2))
    for number in range(5):
        channels.publish("omi", "run", number)
    _, everything = channels.join("omi", "another-life")
    assert [message.split(b"data: ")[1] for message in everything] == [b"2\n\n", b"3\n\n", b"4\n\n"]
    last_but_one = everything[1].split(b"\n")[0].removeprefix(b"id: ").decode()
    assert channels.join("omi", last_but_one)[1] == everything[2:]
    assert channels.join("omi", None)[1] == []
    for contest in ("a", "b", "c"):
        channels.publish(contest, "run", 0)
    assert channels.join("omi", "x")[1] == [], "the quietest contest is forgotten first"


def test_who_lags_is_dropped_and_others_are_not() -> None:
    async def go() -> None:
        channels = Channels(Events(subscriber_buffer=2))
        slow, _ = channels.join("omi", None)
        assert [channels.publish("omi", "run", n) for n in range(3)] == [1, 1, 0]
        assert channels.dropped == 1
        assert channels.subscribers == 0
        received = [await slow.get() for _ in range(3)]
        assert received[-1] is None, "its stream ends after what it was sent"

    asyncio.run(go())


def test_only_the_grader_publishes_and_only_the_frontend_listens(ca: Authority) -> None:
    async def go() -> None:
        async with running(Broadcaster(broadcaster_config(ca))) as service:
            clients = {
                role: Client(service.ports[0], context(ca.path, ca.issue(role, f"as-{role}")))
                for role in ("grader", "frontend", "monitoring", "runner")
            }
            assert await clients["grader"].post("/broadcast/", EVENT) == (200, {"status": "ok", "delivered": 0})
            for role in ("frontend", "monitoring", "runner"):
                assert (await clients[role].post("/broadcast/", EVENT))[0] == 403
            for role in ("grader", "monitoring", "runner"):
                assert (await clients[role].get("/events/"))[0] == 403
            assert (await clients["monitoring"].get("/health"))[0] == 200
            assert (await clients["runner"].get("/health"))[0] == 403
            for bad in ({}, {**EVENT, "event": "a\nb"}, {**EVENT, "x": 1}, {"event": "run"}):
                assert (await clients["grader"].post("/broadcast/", bad))[0] == 400

    asyncio.run(go())


def test_streams_are_kept_alive_and_end_with_the_service(ca: Authority) -> None:
    async def go() -> None:
        service = Broadcaster(broadcaster_config(ca))
        await service.start()
        url = f"https://127.0.0.1:{service.ports[0]}/events/"
        tls = context(ca.path, ca.issue("frontend"))
        async with aiohttp.ClientSession() as session, session.get(url, ssl=tls) as stream:
            beginning = b"retry: 1000\n: connected\n\n: ping\n\n"
            assert await stream.content.readexactly(len(beginning)) == beginning
            async with asyncio.timeout(3):
                await service.stop()
            assert b"data" not in await stream.content.read()

    asyncio.run(go())


@pytest.mark.parametrize("required", [True, False])
def test_redis_is_part_of_health(ca: Authority, required: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omegaup_services.health.FRESH_SECONDS", 0.0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).startswith(b"*"):
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            name = words[0].upper()
            if name in (b"AUTH", b"HELLO") and b"hunter2" not in words:
                writer.write(b"-WRONGPASS invalid password\r\n")
            else:  # newer clients say HELLO 3 AUTH, older ones AUTH
                answers = {b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n", b"PING": b"+PONG\r\n"}
                writer.write(answers.get(name, b"+OK\r\n"))
        writer.close()

    async def go() -> None:
        redis = await asyncio.start_server(serve, "127.0.0.1", port)
        config = Redis(host="127.0.0.1", port=port, password=Secret("hunter2"), required=required)
        async with running(Broadcaster(broadcaster_config(ca, redis=config))) as service:
            client = Client(service.ports[0], context(ca.path, ca.issue("monitoring")))
            assert await client.get("/health") == (200, {"status": "ok", "checks": {"redis": "ok"}})
            redis.close()
            assert service._redis is not None  # type: ignore[attr-defined]
            await service._redis.close()  # type: ignore[attr-defined]
            status, answer = await client.get("/health")
            assert (status, answer["status"]) == ((503, "error") if required else (200, "degraded"))
            assert answer["checks"]["redis"] != "ok"
            assert "hunter2" not in str(answer)

    port = free_port()
    asyncio.run(go())
