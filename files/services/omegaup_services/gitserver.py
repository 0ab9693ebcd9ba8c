"""The problem store: settings and statements of each problem, as files. Port 33861.

Layout under `root`: problems/ALIAS/settings.json and problems/ALIAS/statements/LANG.md. A reader sees a whole
file or the one before it, never a part.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from aiohttp import web

from .checks import NAME, matching
from .config import GitserverConfig
from .health import Unwell
from .httpd import ApiError, body, json_object, require_role, roles
from .schema import ConfigError
from .service import Service, service_main

LANGUAGE = re.compile(r"[a-z]{2}")

RULES = {
    "/problem/": roles("grader", "frontend"),
    "/health": roles("grader", "frontend", "monitoring", "gitserver"),
    "/metrics": roles("grader", "frontend", "monitoring", "gitserver"),
}


def write_atomically(path: Path, content: bytes) -> bool:
    """Replace `path` by a file with `content`, durably. True if it was not there before. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # or the rename is not there after a power cut
    finally:
        os.close(directory)
    return created


class Gitserver(Service):
    def __init__(self, config: GitserverConfig) -> None:
        super().__init__("gitserver", config)
        if not config.root.is_dir():
            raise ConfigError(f"root: {config.root} is not a directory")
        self._root = config.root
        self._problems = config.root / "problems"
        self._reads = self.metrics.counter("gitserver_reads", "Files read.", "result")
        self._writes = self.metrics.counter("gitserver_writes", "Files written.", "result")
        self.health.add("root", self._check_root)
        app = self.serve(config.listen, RULES, config.max_body_bytes)
        app.router.add_get("/problem/{alias}/settings", self._get_settings)
        app.router.add_put("/problem/{alias}/settings", self._put_settings)
        app.router.add_get("/problem/{alias}/statement/{language}", self._get_statement)
        app.router.add_put("/problem/{alias}/statement/{language}", self._put_statement)

    async def _check_root(self) -> None:
        def probe() -> None:
            # Unlike os.access this also fails on a full or read-only file system, and for root's processes.
            with tempfile.NamedTemporaryFile(dir=self._root, prefix=".health-") as file:
                file.write(b"x")
                file.flush()

        try:
            await asyncio.to_thread(probe)
        except OSError as error:
            raise Unwell(f"{self._root} is not writable: {error.strerror}") from None

    def _folder(self, request: web.Request) -> Path:
        return self._problems / matching(request.match_info, "alias", NAME)  # begins with no dot, has no slash

    def _statement(self, request: web.Request) -> Path:
        return self._folder(request) / "statements" / f"{matching(request.match_info, 'language', LANGUAGE)}.md"

    async def _get_settings(self, request: web.Request) -> web.Response:
        return web.json_response(json.loads(await self._read(self._folder(request) / "settings.json")))

    async def _put_settings(self, request: web.Request) -> web.Response:
        require_role(request, "frontend")
        settings: dict[str, Any] = await json_object(request)
        content = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        return await self._write(self._folder(request) / "settings.json", content.encode())

    async def _get_statement(self, request: web.Request) -> web.Response:
        content = await self._read(self._statement(request))
        return web.Response(body=content, content_type="text/markdown", charset="utf-8")

    async def _put_statement(self, request: web.Request) -> web.Response:
        require_role(request, "frontend")
        content = await body(request)
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            raise ApiError(400, "the statement is not UTF-8") from None
        return await self._write(self._statement(request), content)

    async def _read(self, path: Path) -> bytes:
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            self._reads.labels("missing").inc()
            raise ApiError(404, "no such problem or statement") from None
        self._reads.labels("found").inc()
        return content

    async def _write(self, path: Path, content: bytes) -> web.Response:
        try:
            created = await asyncio.to_thread(write_atomically, path, content)
        except OSError as error:
            self._writes.labels("failed").inc()
            raise ApiError(503, f"root: {error.strerror}") from None
        self._writes.labels("done").inc()
        return web.json_response({"status": "ok"}, status=201 if created else 200)


def main() -> None:
    service_main("gitserver", GitserverConfig, Gitserver)
