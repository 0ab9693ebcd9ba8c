"""Three runners in processes of their own, a grader on a real database: one runner is killed, one freezes, the grader
starts anew; each submission ends with exactly one verdict.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaup_services.broadcaster import Broadcaster
from omegaup_services.config import Listen, Mysql
from omegaup_services.gitserver import Gitserver
from omegaup_services.grader.app import Grader
from omegaup_services.schema import Secret

from deploy.roles.mysql_access import WORK
from tests.unit.frontend.fakes import HOST, Mariadb
from tests.unit.services.servers import PASSWORD, Database, need
from tests.unit.services.support import (
    SERVICES,
    Authority,
    Client,
    broadcaster_config,
    context,
    environment,
    free_port,
    gitserver_config,
    grader_config,
    running,
)

SUBMISSIONS = 150
LEASE_SECONDS = 2.0


@pytest.fixture
def database() -> Iterator[Database]:
    need("mariadbd", "mariadb-install-db")
    with tempfile.TemporaryDirectory(prefix="db") as directory:
        schema = [file for part in ("services", "frontend") for file in sorted((SERVICES.parent / part).glob("sql/*"))]
        server = Mariadb(Path(directory), schema, os.geteuid() == 0)
        yield Database(server, {f"omegaup.{table}": WORK for table in ("Runs", "Submissions")})
        server.stop()


class RunnerProcess:
    def __init__(self, folder: Path, ca: Authority, name: str, grader: int) -> None:
        pair = ca.issue("runner", name)
        config = {
            "listen": {"host": "127.0.0.1", "port": free_port()}, "name": name, "noop_seconds": 0.05,
            "tls": {"certificate": str(pair.certificate), "key": str(pair.key), "ca": str(pair.ca)},
            "grader": {"url": f"https://127.0.0.1:{grader}", "timeout_seconds": 2},
            "backoff": {"initial_seconds": 0.05, "max_seconds": 0.3}, "log": {"format": "text"},
        }  # fmt: skip
        self._config = folder / f"{name}.json"
        self._config.write_text(json.dumps(config))
        self._log = (folder / f"{name}.log").open("ab")
        self.start()

    def start(self) -> None:
        code = "from omegaup_services.runner.app import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--config", str(self._config)], env=environment(), stdout=self._log,
            stderr=self._log,
        )  # fmt: skip

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()


def test_each_submission_has_one_verdict(ca: Authority, database: Database, tmp_path: Path) -> None:
    runners: list[RunnerProcess] = []

    async def go() -> None:
        async with (
            running(Gitserver(gitserver_config(ca, tmp_path))) as gitserver,
            running(Broadcaster(broadcaster_config(ca))) as broadcaster,
        ):
            front, back = free_port(), free_port()
            config = replace(
                grader_config(ca, gitserver.ports[0], broadcaster.ports[0], lease_seconds=LEASE_SECONDS),
                listen=Listen(host="127.0.0.1", port=front),
                runners_listen=Listen(host="127.0.0.1", port=back),
                mysql=Mysql(host=HOST, port=database.server.port, user="worker", password=Secret(PASSWORD)),
            )
            grader = Grader(config)
            await grader.start()
            frontend = context(ca.path, ca.issue("frontend"))
            await Client(gitserver.ports[0], frontend).put("/problem/sumas/settings", {})
            client = Client(front, frontend)
            runners.extend(RunnerProcess(tmp_path, ca, name, back) for name in ("one", "two", "three"))
            for number in range(SUBMISSIONS):
                body = {"problem": "sumas", "language": "py3", "source": "print(1)", "submission_id": f"s-{number}"}
                assert (await client.post("/submission/new", body))[0] == 200
                if number == 40:
                    runners[0].process.kill()
                if number == 70:
                    runners[1].process.send_signal(signal.SIGSTOP)
                if number == 100:
                    await grader.stop()
                    grader = Grader(config)
                    await grader.start()
            try:
                await verdicts()
                # What the frozen one had is another's by now: it is not asked a second time.
                runners[1].process.send_signal(signal.SIGCONT)
                await asyncio.sleep(2 * LEASE_SECONDS)
                shown = (await Client(front, context(ca.path, ca.issue("monitoring"))).get("/metrics"))[1]
                assert counted(shown) <= SUBMISSIONS
            finally:
                await grader.stop()

    async def verdicts() -> None:
        async with asyncio.timeout(60):
            while rows("SELECT COUNT(*) FROM Runs WHERE status = 'ready' AND verdict = 'AC'") != [(SUBMISSIONS,)]:
                await asyncio.sleep(0.2)

    def rows(statement: str) -> list[tuple[Any, ...]]:
        return database.rows(statement)

    try:
        asyncio.run(go())
    finally:
        for runner in runners:
            runner.end()
    assert rows("SELECT COUNT(*), COUNT(DISTINCT submission_id) FROM Runs") == [(SUBMISSIONS, SUBMISSIONS)]
    by = dict(rows("SELECT runner, COUNT(*) FROM Runs GROUP BY runner"))
    assert by["three"] > by.get("one", 0)


def counted(metrics: str) -> float:
    """Verdicts that this grader has recorded."""
    lines = [line for line in metrics.splitlines() if line.startswith("grader_verdicts_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
