"""Configuration that is wrong is refused whole, in one line that names the key and shows no secret."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaup_services.config import (
    BroadcasterConfig,
    GitserverConfig,
    GraderConfig,
    RunnerConfig,
    WorkerConfig,
    load_file,
)
from omegaup_services.schema import ConfigError

from tests.unit.services.support import Authority, environment

TLS = {"certificate": "/c.pem", "key": "/k.pem", "ca": "/ca.pem"}
MYSQL = {"host": "127.0.0.1", "user": "u", "password": "hunter2"}
RABBITMQ = {"host": "127.0.0.1", "user": "u", "password": "hunter2"}
GRADER: dict[str, Any] = {
    "listen": {"port": 21680},
    "runners_listen": {"port": 11302},
    "tls": TLS,
    "mysql": MYSQL,
    "gitserver": {"url": "https://gitserver:33861"},
    "broadcaster": {"url": "https://broadcaster:32672"},
}


def load(cls: type[Any], data: object, folder: Path) -> Any:
    file = folder / "config.json"
    file.write_text(json.dumps(data))
    return load_file(cls, file)


def test_smallest_configurations_have_the_documented_defaults(tmp_path: Path) -> None:
    grader = load(GraderConfig, GRADER, tmp_path)
    assert grader.listen.host == "0.0.0.0"
    assert grader.mysql.port == 3306
    assert grader.queue.poll_seconds == 20
    assert grader.queue.lease_seconds == 600
    assert grader.rabbitmq is None
    load(GitserverConfig, {"listen": {"port": 33861}, "tls": TLS, "root": "/srv"}, tmp_path)
    load(BroadcasterConfig, {"listen": {"port": 32672}, "tls": TLS, "redis": None}, tmp_path)
    runner = {"listen": {"port": 6060}, "tls": TLS, "name": "r1", "grader": {"url": "https://grader:11302"}}
    assert load(RunnerConfig, runner, tmp_path).judge == "noop"
    worker = {"queue": "ContestQueue", "rabbitmq": RABBITMQ, "mysql": MYSQL}
    assert load(WorkerConfig, worker, tmp_path).prefetch == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "unknown key surprise"),
        ({"queue": {"lease": 1}}, "queue: unknown key lease"),
        ({"listen": {"port": "21680"}}, "listen.port: expected a whole number, found a string"),
        ({"listen": {"port": True}}, "listen.port: expected a whole number"),
        ({"listen": {"port": 70000}}, "listen.port: 70000 is outside 0..65535"),
        ({"tls": {**TLS, "key": "key.pem"}}, "tls.key: expected an absolute path"),
        ({"tls": None}, "tls: expected an object, found null"),
        ({"mysql": {"host": "h", "user": "u"}}, "mysql.password: required, but missing"),
        ({"mysql": {**MYSQL, "password_file": "/x"}}, "give either password or password_file"),
        ({"log": {"level": "loud"}}, "log.level: 'loud' is not one of debug"),
        ({"shutdown_seconds": "5"}, "shutdown_seconds: expected a number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GraderConfig, {**GRADER, **change}, tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "config.json"))
    assert words in message
    assert "hunter2" not in message
    assert "\n" not in message


def test_only_the_worker_that_sends_mail_knows_the_relay(tmp_path: Path) -> None:
    worker = {"rabbitmq": RABBITMQ, "mysql": MYSQL}
    mail = {"mail": {"host": "h", "sender": "a@b"}}
    with pytest.raises(ConfigError, match="mysql: required"):
        load(WorkerConfig, {"queue": "ContestQueue", "rabbitmq": RABBITMQ}, tmp_path)
    for wrong in ({"queue": "NotificationQueue"}, {"queue": "AnalyticsQueue", **mail}):
        with pytest.raises(ConfigError, match="mail: required for NotificationQueue, and for no other"):
            load(WorkerConfig, {**worker, **wrong}, tmp_path)
    assert load(WorkerConfig, {**worker, **mail, "queue": "NotificationQueue"}, tmp_path).mail is not None
    with pytest.raises(ConfigError, match="queue: 'Other' is not one of"):
        load(WorkerConfig, {**worker, "queue": "Other"}, tmp_path)


def test_secrets_are_not_shown_and_may_be_in_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    mysql = {"host": "h", "user": "u", "password_file": str(secret)}
    config = load(GraderConfig, {**GRADER, "mysql": mysql}, tmp_path)
    assert config.mysql.password.reveal() == "s3cret"
    assert "s3cret" not in f"{config} {config!r} {config.mysql.password}"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    module, function = script.split(":")
    return subprocess.run(
        [sys.executable, "-c", f"from {module} import {function}; {function}()", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("script", "data"),
    [
        ("omegaup_services.grader.app:main", {**GRADER, "surprise": "hunter2"}),
        ("omegaup_services.grader.app:main", GRADER),  # well-formed, but its certificate files are not there
        ("omegaup_services.worker.app:main", {"queue": "ContestQueue"}),
    ],
)
def test_exit_status_is_ex_config_with_one_line(tmp_path: Path, script: str, data: object) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(data))
    done = run(script, "--config", str(file))
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr


def test_absent_file_is_ex_config_too(tmp_path: Path) -> None:
    done = run("omegaup_services.gitserver:main", "--config", str(tmp_path / "absent.json"))
    assert done.returncode == 78
    assert "cannot be read" in done.stderr


def test_check_starts_nothing(ca: Authority, tmp_path: Path) -> None:
    pair = ca.issue("gitserver")
    tls = {"certificate": str(pair.certificate), "key": str(pair.key), "ca": str(pair.ca)}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"listen": {"port": 1}, "tls": tls, "root": str(tmp_path)}))
    done = run("omegaup_services.gitserver:main", "--config", str(file), "--check")
    assert (done.returncode, done.stderr) == (0, "")
    ca.issue("gitserver", expired=True)
    done = run("omegaup_services.gitserver:main", "--config", str(file), "--check")
    assert done.returncode == 78
    assert "expired" in done.stderr


def test_port_taken_is_one_line_and_status_1(ca: Authority, tmp_path: Path) -> None:
    pair = ca.issue("gitserver")
    tls = {"certificate": str(pair.certificate), "key": str(pair.key), "ca": str(pair.ca)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "config.json"
        listen = {"host": "127.0.0.1", "port": port}
        file.write_text(json.dumps({"listen": listen, "tls": tls, "root": str(tmp_path)}))
        done = run("omegaup_services.gitserver:main", "--config", str(file))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
