"""Attackers inside somebody's network: knock at ports, send what nobody expects, hold what they have opened.

As a process: `python -m tests.chaos.attackers` with its orders (JSON) on the first line of standard input; prints what
came of it (JSON). What is held is held until standard input is closed. Only the lab's own addresses are touched.

Nothing here imports pyinfra, whose gevent would make one thread of all of them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import attacks

KNOCK_SECONDS = 3.0
TOGETHER = 200
"""Connections that are opened at a time."""
ANSWER = 4096
"""Bytes that are kept of an answer."""

Place = tuple[str, int]


@dataclass(frozen=True)
class Tls:
    """What an attacker has for TLS: PEM texts. Nobody's name is checked: it is the servers that are tried."""

    certificate: str = ""
    key: str = ""

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            with tempfile.TemporaryDirectory() as folder:
                pair = Path(folder) / "pair.pem"
                pair.touch(mode=0o600)
                pair.write_text(f"{self.key}\n{self.certificate}")
                context.load_cert_chain(pair)
        return context


async def _open(place: Place, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.wait_for(asyncio.open_connection(*place, ssl=tls), KNOCK_SECONDS * 2)


async def _knock(places: Iterable[Place]) -> list[Place]:
    """Which of them can be connected to."""
    room = asyncio.Semaphore(TOGETHER)

    async def one(place: Place) -> bool:
        async with room:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(*place), KNOCK_SECONDS)
            except (OSError, TimeoutError):
                return False
            writer.transport.abort()
            return True

    every = list(places)
    return [place for place, answers in zip(every, await asyncio.gather(*map(one, every)), strict=True) if answers]


async def _send(place: Place, data: bytes, tls: ssl.SSLContext | None, patience: float) -> bytes:
    """The beginning of what comes back within the patience (seconds)."""
    found = b""
    try:
        reader, writer = await _open(place, tls)
    except (OSError, TimeoutError):
        return found
    try:
        async with asyncio.timeout(patience):
            writer.write(data)
            with contextlib.suppress(OSError):
                await writer.drain()
            while len(found) < ANSWER and (piece := await reader.read(ANSWER)):
                found += piece
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    return found[:ANSWER]


async def _sent(
    place: Place, requests: Mapping[str, str], tls: ssl.SSLContext | None, patience: float
) -> dict[str, str]:
    """Name -> answer, both as base64."""
    room = asyncio.Semaphore(10)

    async def one(data: str) -> str:
        async with room:
            return base64.b64encode(await _send(place, base64.b64decode(data), tls, patience)).decode()

    answers = await asyncio.gather(*map(one, requests.values()))
    return dict(zip(requests, answers, strict=True))


async def _noise(places: Iterable[Place], seed: int, count: int) -> list[Place]:
    """Noise to each place in turn; those that could be connected to."""
    reached = []
    for number, place in enumerate(places):
        answers = await asyncio.gather(
            *(_noisy(place, data) for data in attacks.noise(seed + number, count)), return_exceptions=False
        )
        if any(answers):
            reached.append(place)
    return reached


async def _noisy(place: Place, data: bytes) -> bool:
    try:
        _, writer = await _open(place, None)
    except (OSError, TimeoutError):
        return False
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.3)
    writer.transport.abort()
    return True


async def _hold(place: Place, count: int, tls: ssl.SSLContext | None, say: bytes, drip: float) -> dict[str, int]:
    """Hold so many connections, each opened anew as soon as it ends, until standard input is closed.

    say: sent at once, but for its last byte, if `drip`: of those one is sent every so many seconds.
    """
    over, counts = asyncio.Event(), {"opened": 0, "refused": 0, "ended": 0}
    first, rest = (say[:1], say[1:]) if drip else (say, b"")

    async def one() -> None:
        while not over.is_set():
            try:
                reader, writer = await _open(place, tls)
            except (OSError, TimeoutError):
                counts["refused"] += 1
                await asyncio.sleep(0.5)
                continue
            counts["opened"] += 1
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(first)
                ending = asyncio.create_task(_until_end(reader))
                for byte in rest:
                    await asyncio.wait({ending}, timeout=drip)
                    if ending.done() or over.is_set():
                        break
                    writer.write(bytes([byte]))
                waiting = asyncio.create_task(over.wait())
                await asyncio.wait({ending, waiting}, return_when=asyncio.FIRST_COMPLETED)
                counts["ended"] += ending.done()
                ending.cancel()
                waiting.cancel()
            writer.transport.abort()
            await asyncio.sleep(1)

    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(one()))
        if len(tasks) % TOGETHER == 0:
            await asyncio.sleep(0.2)
    await asyncio.to_thread(sys.stdin.read)
    over.set()
    await asyncio.wait(tasks, timeout=10)
    for task in tasks:
        task.cancel()
    return counts


async def _until_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


async def _do(orders: dict[str, Any]) -> Any:
    made = Tls(**orders["tls"]).context() if orders.get("tls") is not None else None
    places = [(str(host), int(port)) for host, port in orders["places"]]
    match orders["what"]:
        case "knock":
            return await _knock(places)
        case "send":
            return await _sent(places[0], orders["requests"], made, orders["patience"])
        case "noise":
            return await _noise(places, orders["seed"], orders["count"])
        case "hold":
            say = base64.b64decode(orders["say"])
            return await _hold(places[0], orders["count"], made, say, orders["drip"])


def _main() -> None:
    orders = json.loads(sys.stdin.readline())
    print(json.dumps(asyncio.run(_do(orders))))


# What the suites call.


def _ordered(tls: Tls | None, places: Sequence[Place], **more: Any) -> str:
    return json.dumps({"places": places, "tls": vars(tls) if tls else None, **more}) + "\n"


def _begun(enter: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # One attacker holds thousands of connections.
        [*enter, "prlimit", "--nofile=20000:20000", sys.executable, "-m", "tests.chaos.attackers"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _told(enter: Sequence[str], orders: str, seconds: float = 600) -> Any:
    process = _begun(enter)
    try:
        said, errors = process.communicate(orders, timeout=seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert said, errors[-2000:]
    return json.loads(said)


def knocked(enter: Sequence[str], places: Sequence[Place]) -> set[Place]:
    """Which of these (address, port) can be connected to, from where `enter` leads."""
    return {(host, port) for host, port in _told(enter, _ordered(None, places, what="knock"))}


def sent(
    enter: Sequence[str], place: Place, requests: Mapping[str, bytes], tls: Tls | None = None, patience: float = 4.0
) -> dict[str, bytes]:
    """Name -> the beginning of what comes back within the patience (seconds), each on a connection of its own."""
    encoded = {name: base64.b64encode(data).decode() for name, data in requests.items()}
    answers = _told(enter, _ordered(tls, [place], what="send", requests=encoded, patience=patience))
    return {name: base64.b64decode(answer) for name, answer in answers.items()}


def noisy(enter: Sequence[str], places: Sequence[Place], seed: int, count: int) -> set[Place]:
    """Noise from this seed to each place; those that could be connected to."""
    return {(host, port) for host, port in _told(enter, _ordered(None, places, what="noise", seed=seed, count=count))}


@dataclass
class Held:
    """What came of connections that were held; there once the block has ended."""

    counts: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def holding(
    enter: Sequence[str], place: Place, count: int, *, tls: Tls | None = None, say: bytes = b"", drip: float = 0.0
) -> Iterator[Held]:
    """So many connections are held as long as the block lasts; each that ends is opened anew.

    say: what each sends at once, or, with `drip`, a byte every so many seconds.
    """
    process, held = _begun(enter), Held()
    assert process.stdin is not None
    try:
        process.stdin.write(
            _ordered(tls, [place], what="hold", count=count, say=base64.b64encode(say).decode(), drip=drip)
        )
        process.stdin.flush()
        yield held
        said, errors = process.communicate(timeout=60)
        assert said, errors[-2000:]
        held.counts.update(json.loads(said))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def codes(answer: bytes) -> list[int]:
    """The codes of the HTTP answers in it."""
    return [int(part[2:5]) for part in answer.split(b"HTTP/1.")[1:] if part[2:5].isdigit()]


if __name__ == "__main__":
    _main()
