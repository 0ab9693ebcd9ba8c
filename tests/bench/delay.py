"""A TCP proxy that delays what passes: a round trip of 50 ms where the kernel has no netem."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Every piece arrives `seconds` after it was sent, in order; pieces are under way at the same time."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)

    delivery = asyncio.create_task(deliver())
    try:
        while data := await reader.read(65536):
            under_way.put_nowait((loop.time() + seconds, data))
    except ConnectionError:
        pass
    under_way.put_nowait((loop.time() + seconds, b""))
    await delivery


@contextmanager
def delayed(targets: dict[str, tuple[str, int]], round_trip: float) -> Iterator[dict[str, int]]:
    """name -> port on 127.0.0.1 that leads to the target with half of `round_trip` (seconds) each way."""
    loop = asyncio.new_event_loop()
    ports: dict[str, int] = {}

    async def serve() -> None:
        for name, (address, port) in targets.items():

            async def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: tuple[str, int] = (address, port)
            ) -> None:
                far_reader, far_writer = await asyncio.open_connection(*where)
                await asyncio.gather(
                    _pump(reader, far_writer, round_trip / 2), _pump(far_reader, writer, round_trip / 2)
                )

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            ports[name] = server.sockets[0].getsockname()[1]

    loop.run_until_complete(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield ports
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
