"""SubmissionQueue: submissions that arrive by the broker rather than by HTTP, for the same queue of runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from ..config import Backoff, Rabbitmq
from ..health import Unwell
from ..httpd import ApiError
from ..worker.consumer import Consumer, Invalid, NotNow
from ..worker.messages import json_message

HANDLE_SECONDS = 30.0


class SubmissionQueue:
    """A consumer in a thread of its own; messages are the body of POST /submission/new, `submission_id`
    required.
    """

    def __init__(
        self, config: Rabbitmq, queue: str, dead_letters: str, submit: Callable[[dict[str, Any]], Awaitable[str]]
    ) -> None:
        self._submit = submit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumer = Consumer(
            config, queue, self._handle, backoff=Backoff(max_seconds=30.0), dead_letters=dead_letters
        )
        self._thread = threading.Thread(target=self._consumer.run, name="submission-queue", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Finish the message in hand."""
        self._consumer.stop()
        await asyncio.to_thread(self._thread.join, HANDLE_SECONDS)

    async def check(self) -> None:
        """Raises Unwell when not consuming."""
        if not self._consumer.consuming:
            raise Unwell(self._consumer.last_error)

    def _handle(self, body: bytes, breathe: Callable[[], None]) -> None:
        data = json_message(body)
        if "submission_id" not in data:
            # A message may be delivered twice; without an id of its own the second would be another
            # submission.
            raise Invalid("submission_id: required, but missing")
        assert self._loop is not None

        async def submit() -> None:
            await self._submit(data)

        try:
            asyncio.run_coroutine_threadsafe(submit(), self._loop).result(HANDLE_SECONDS)
        except ApiError as error:
            if error.code < 500:
                raise Invalid(error.message) from None
            raise NotNow(error.message) from None
        except TimeoutError:
            raise NotNow("the grader is too busy") from None
