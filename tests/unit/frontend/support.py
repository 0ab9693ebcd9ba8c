"""A frontend under PHP's own web server, one process, so that what persists between requests can be seen."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.frontend.fakes import (
    HOST,
    Authority,
    Broker,
    FakeGrader,
    Mariadb,
    Redis,
    free_port,
    stop,
    wait_for_port,
)

FRONTEND = Path(__file__).resolve().parents[3] / "files" / "frontend"
PACKAGES = "php8.2-cli php-redis php-amqplib php8.2-mysql php8.2-curl php8.2-mbstring"
MODULES = {"redis", "mysqli", "curl", "mbstring", "sockets"}


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install {package}")


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def php_constants(values: dict[str, Any]) -> str:
    # JSON's literals are PHP's, for what is used here.
    lines = [f"define('{name}', {json.dumps(value).replace('$', chr(92) + '$')});" for name, value in values.items()]
    return "<?php\n" + "\n".join(lines) + "\n"


class Site:
    """One running frontend."""

    def __init__(self, directory: Path, constants: dict[str, Any], workers: int = 1) -> None:
        self._workers = workers
        self.config = directory / "config.php"
        self.config.write_text(php_constants(constants))
        self.log = directory / "php.log"
        self._output = self.log.open("ab")
        self.port = free_port()
        self.process = subprocess.Popen(
            ["php", "-d", "opcache.enable=0", "-S", f"{HOST}:{self.port}", "-t", str(FRONTEND / "www"),
             str(FRONTEND / "www" / "index.php")],
            env=self.environment(), stdout=self._output, stderr=self._output, start_new_session=True,
        )  # fmt: skip
        wait_for_port(self.port, self.process)

    def environment(self) -> dict[str, str]:
        # A proxy that leads nowhere, to show that the grader is not asked through one.
        workers = {"PHP_CLI_SERVER_WORKERS": str(self._workers)} if self._workers > 1 else {}
        return {**os.environ, **workers, "OMEGAUP_CONFIG": str(self.config), "https_proxy": f"http://{HOST}:1"}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        form: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        headers = dict(headers or {})
        data: str | bytes | None = form
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif body is not None:
            headers.setdefault("Content-Type", "application/json")
            data = body if isinstance(body, bytes) else json.dumps(body)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.request("POST", path, body, **options)

    def run(self, code: str) -> str:
        """What `code` prints, with the classes and the configuration loaded."""
        prelude = f"require '{FRONTEND}/src/autoload.php'; OmegaUp\\Config::load(); "
        done = subprocess.run(
            ["php", "-d", "error_log=/dev/null", "-r", prelude + code],
            env=self.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        stop(self.process)
        # Its workers, if it has any: they would outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._output.close()


@dataclass
class Shared:
    site: Site
    grader: FakeGrader
    broker: Broker


class World:
    """Everything around a frontend. A part that is not started leads to a port where nobody listens."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory, self.authority = directory, authority
        self._close: list[Callable[[], None]] = []
        self._sites = 0
        closed = free_port()
        self.constants: dict[str, Any] = {
            "REDIS_HOST": HOST,
            "REDIS_PORT": closed,
            "REDIS_USER": "frontend",
            "REDIS_PASS": Redis.PASSWORD,
            "REDIS_SESSIONS_HOST": HOST,
            "REDIS_SESSIONS_PORT": closed,
            "REDIS_SESSIONS_PASS": Redis.PASSWORD,
            "OMEGAUP_DB_HOST": f"{HOST}:{closed}",
            "OMEGAUP_DB_USER": "frontend",
            "OMEGAUP_DB_PASS": Mariadb.PASSWORD,
            "OMEGAUP_DB_NAME": "omegaup",
            "OMEGAUP_RABBITMQ_HOST": HOST,
            "OMEGAUP_RABBITMQ_PORT": closed,
            "OMEGAUP_RABBITMQ_USERNAME": "frontend",
            "OMEGAUP_RABBITMQ_PASSWORD": "broker-secret",
            "OMEGAUP_RABBITMQ_VHOST": "/",
            "OMEGAUP_GRADER_URL": f"https://{HOST}:{closed}",
            "OMEGAUP_GITSERVER_URL": f"https://{HOST}:{closed}",
            "OMEGAUP_SSL_DIR": str(authority.directory),
            "OMEGAUP_REFERENCE_LOGIN": True,
        }

    def redis(self, keys: str = Redis.CACHE_KEYS, tls: Authority | None = None) -> Redis:
        need("redis-server", "redis-server")
        prefix = "REDIS" if keys == Redis.CACHE_KEYS else "REDIS_SESSIONS"
        redis = Redis(self.directory / prefix, keys, tls)
        self._close.append(redis.stop)
        self.constants[f"{prefix}_PORT"] = redis.port
        self.constants["REDIS_TLS"] = tls is not None
        return redis

    def broker(self, **options: Any) -> Broker:
        broker = Broker(**options)
        self._close.append(broker.close)
        self.constants["OMEGAUP_RABBITMQ_PORT"] = broker.port
        return broker

    def grader(self, pair: tuple[Path, Path] | None = None, trusted: Path | None = None) -> FakeGrader:
        grader = FakeGrader(pair or self.authority.server(), trusted or self.authority.directory / "ca.crt")
        self._close.append(grader.close)
        self.constants["OMEGAUP_GRADER_URL"] = grader.url
        return grader

    def gitserver(self) -> FakeGrader:
        gitserver = FakeGrader(self.authority.server(), self.authority.directory / "ca.crt")
        self._close.append(gitserver.close)
        self.constants["OMEGAUP_GITSERVER_URL"] = gitserver.url
        return gitserver

    def site(self, workers: int = 1, **constants: Any) -> Site:
        self._sites += 1
        directory = self.directory / f"site{self._sites}"
        directory.mkdir()
        site = Site(directory, {**self.constants, **constants}, workers)
        self._close.append(site.close)
        return site

    def pause(self, process: subprocess.Popen[bytes]) -> None:
        """A peer that accepts connections and never answers."""
        process.send_signal(signal.SIGSTOP)
        self._close.append(lambda: process.send_signal(signal.SIGCONT))

    def close(self) -> None:
        for close in reversed(self._close):
            close()
