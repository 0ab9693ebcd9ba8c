"""The services' configuration files: one JSON object each, read once at start, refused as a whole if a key is
wrong.

Times are seconds, sizes bytes. Ports are those of the specification. `load_file` raises ConfigError, which
the command line turns into one line on standard error and exit status 78 (EX_CONFIG of sysexits.h).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from .schema import ConfigError, Secret, choice, limits, load

T = TypeVar("T")
HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where to listen. Port 0 asks the kernel for a free one (tests)."""

    # Which networks may connect is the firewall's and the certificates' matter.
    host: str = "0.0.0.0"  # noqa: S104  # nosec B104
    port: int = limits(0, 65535)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """A service's own pair and whom it trusts. `crl`: a PEM revocation list; expired, it refuses
    everybody.
    """

    certificate: Path
    key: Path
    ca: Path
    crl: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """TLS towards a database or a broker. `verify_hostname` false still verifies the chain: for a proxy on
    loopback. `crl`: a PEM revocation list; expired, it refuses every server.

    `insist_file` (the database's alone) is read at each new connection: while it says `preferred` or `off`, a server
    that offers no TLS is taken as well. Without it, or where it cannot be read: TLS or nothing.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    crl: Path | None = None
    verify_hostname: bool = True
    insist_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Log:
    level: str = choice("debug", "info", "warning", "error", default="info")
    format: str = choice("json", "text", default="json")


@dataclass(frozen=True, kw_only=True)
class Mysql:
    """`pool_size` connections, each opened when first needed; `timeout_seconds` bounds connect, read and
    write.
    """

    host: str
    port: int = limits(1, 65535, 3306)
    user: str
    password: Secret
    database: str = "omegaup"
    pool_size: int = limits(1, 64, 4)
    timeout_seconds: float = limits(0.1, 60, 5.0)
    tls: ClientTls | None = None


@dataclass(frozen=True, kw_only=True)
class Rabbitmq:
    host: str
    port: int = limits(1, 65535, 5672)
    user: str
    password: Secret
    virtual_host: str = "/"
    heartbeat_seconds: int = limits(2, 600, 30)
    timeout_seconds: float = limits(0.1, 60, 10.0)
    tls: ClientTls | None = None


@dataclass(frozen=True, kw_only=True)
class Redis:
    """`required`: whether /health answers 503 when Redis does not answer PING (false: 200 with status
    degraded).
    """

    host: str
    port: int = limits(1, 65535, 6379)
    user: str | None = None
    password: Secret
    timeout_seconds: float = limits(0.1, 60, 2.0)
    required: bool = True
    tls: ClientTls | None = None


@dataclass(frozen=True, kw_only=True)
class Gitserver:
    url: str
    timeout_seconds: float = limits(0.1, 60, 5.0)
    cache_seconds: float = limits(0, HOUR, 30.0)


@dataclass(frozen=True, kw_only=True)
class Broadcaster:
    url: str
    timeout_seconds: float = limits(0.1, 60, 5.0)


@dataclass(frozen=True, kw_only=True)
class Queue:
    """`lease_seconds`: how long a runner may hold a run before another gets it; so above the longest run
    there is.

    `runner_timeout_seconds` without contact and a runner no longer counts as available. `poll_seconds`: how
    long a runner's request is held open. After `max_attempts` leases a run ends with verdict JE. Every
    `sweep_seconds` the database is searched for runs that memory does not know (an insert whose answer was
    lost, a rejudge).
    """

    lease_seconds: float = limits(0.1, 24 * HOUR, 600.0)
    runner_timeout_seconds: float = limits(0.1, HOUR, 60.0)
    poll_seconds: float = limits(0.1, 300, 20.0)
    max_attempts: int = limits(1, 100, 3)
    sweep_seconds: float = limits(0.1, HOUR, 60.0)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential, with full jitter: the n-th wait is uniform in [initial/2, min(max, initial * 2^n)]."""

    initial_seconds: float = limits(0.01, 60, 1.0)
    max_seconds: float = limits(0.01, HOUR, 64.0)


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """What every HTTPS service has. `shutdown_seconds`: how long requests in flight may take after
    SIGTERM.
    """

    listen: Listen
    tls: Tls
    shutdown_seconds: float = limits(0, 300, 5.0)
    log: Log = field(default_factory=Log)


@dataclass(frozen=True, kw_only=True)
class GraderConfig(ServiceConfig):
    runners_listen: Listen
    mysql: Mysql
    gitserver: Gitserver
    broadcaster: Broadcaster
    queue: Queue = field(default_factory=Queue)
    rabbitmq: Rabbitmq | None = None
    submission_queue: str = "SubmissionQueue"
    dead_letters: str = "dead-letters"
    max_source_bytes: int = limits(1, 4 * 1024 * 1024, 128 * 1024)  # MEDIUMTEXT holds 16 MiB


@dataclass(frozen=True, kw_only=True)
class GitserverConfig(ServiceConfig):
    root: Path
    max_body_bytes: int = limits(1024, 1024**3, 1024 * 1024)


@dataclass(frozen=True, kw_only=True)
class Events:
    """`history` events are kept for each of at most `max_contests`; a subscriber `subscriber_buffer` behind
    is dropped.
    """

    history: int = limits(0, 100_000, 100)
    max_contests: int = limits(1, 1_000_000, 1000)
    subscriber_buffer: int = limits(1, 100_000, 64)
    ping_seconds: float = limits(0.1, 300, 30.0)


@dataclass(frozen=True, kw_only=True)
class BroadcasterConfig(ServiceConfig):
    redis: Redis | None = None
    events: Events = field(default_factory=Events)


@dataclass(frozen=True, kw_only=True)
class GraderLink:
    url: str
    timeout_seconds: float = limits(0.1, 60, 10.0)


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """`socket`: each connection to it is a box of its own, made by systemd."""

    socket: Path = Path("/run/omegaup-sandbox.sock")


@dataclass(frozen=True, kw_only=True)
class RunnerConfig(ServiceConfig):
    name: str
    slots: int = limits(1, 256, 1)
    grader: GraderLink
    judge: str = choice("noop", "sandbox", default="noop")
    sandbox: Sandbox = field(default_factory=lambda: Sandbox())
    noop_seconds: float = limits(0, HOUR, 0.0)
    max_silence_seconds: float = limits(0.1, HOUR, 60.0)
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, kw_only=True)
class MysqlAgentConfig(ServiceConfig):
    """`listen`: copies, over mutual TLS; `role_listen`: the role, in plain HTTP, for the proxies. While `drain_file`
    exists it says that nothing here serves.
    """

    role_listen: Listen
    socket: Path
    user: str = "mysql"
    max_lag_seconds: float = limits(0, 24 * HOUR, 30.0)
    drain_file: Path


QUEUES = ("ContestQueue", "NotificationQueue", "AnalyticsQueue")


@dataclass(frozen=True, kw_only=True)
class Mail:
    """The relay that takes our mail. `tls`: none, starttls, or tls from the first byte; `sender`: the From address."""

    host: str
    port: int = limits(1, 65535, 25)
    tls: str = choice("none", "starttls", "tls", default="none")
    sender: str
    timeout_seconds: float = limits(0.1, 60, 10.0)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    queue: str = choice(*QUEUES)
    rabbitmq: Rabbitmq
    mysql: Mysql
    mail: Mail | None = None
    dead_letters: str = "dead-letters"
    prefetch: int = limits(1, 10_000, 1)
    metrics: Listen | None = None
    backoff: Backoff = field(default_factory=lambda: Backoff(max_seconds=30.0))
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        if (self.queue == "NotificationQueue") != (self.mail is not None):
            raise ConfigError("mail: required for NotificationQueue, and for no other queue")


@dataclass(frozen=True, kw_only=True)
class QueueToolConfig:
    rabbitmq: Rabbitmq


def load_file(cls: type[T], path: Path) -> T:
    """Read `path` as a `cls`. Raises ConfigError whose text begins with the file's path."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    try:
        return load(cls, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
