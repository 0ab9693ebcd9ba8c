"""Every setting of the fleet: type, bounds, unit, how a change takes effect, and the value the spec gives it.

An inventory overrides them in its group data, one dictionary per section (`redis = {"maxmemory": "512mb"}`).
Unknown sections and unknown keys are refused. `applies` is the step class that a change costs (see StepClass).
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from deploy.model.units import Size, Span

KIB, MIB, GIB = 1024, 1024**2, 1024**3
MINUTE, HOUR, DAY = 60, 3600, 86400

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Url = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s\"'@]+)?$")]
Network = Annotated[str, StringConstraints(pattern=r"^\d{1,3}(\.\d{1,3}){3}(/\d{1,2})?$")]
Mail = Annotated[str, StringConstraints(pattern=r"^[^\s@\"']+@[^\s@\"']+$")]
SshKey = Annotated[str, StringConstraints(pattern=r"^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-\S+) \S+( .*)?$")]

HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?$")]
MailAddress = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")
]


def setting(default: Any, doc: str, *, applies: str = "restart", unit: str = "", **bounds: Any) -> Any:
    """A field with its documentation, unit and the step class that a change of it costs."""
    extra: dict[str, Any] = {"applies": applies, "unit": unit}
    return Field(default, description=doc, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """A group of settings; refuses what it does not know and never changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Base(Section):
    """What every host gets."""

    operators: tuple[SshKey, ...] = setting(
        (), "Public SSH keys that may log in as the deploying user", applies="write"
    )
    login: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = setting(
        "root", "The account that operators log in to", applies="write"
    )
    root_login: Literal["keys", "no"] = setting(
        "keys", "Whether root may log in, by a key; `no` takes another account (login), which becomes root by sudo",
        applies="reload",
    )  # fmt: skip
    ssh_ports: tuple[int, ...] = setting((22,), "Ports of sshd, opened in the firewall", applies="reload")
    ssh_from: tuple[str, ...] = setting((), "Networks from which SSH is accepted; empty: anywhere", applies="reload")
    journal_max: Size = setting(
        512 * MIB, "Disk that the journal may take", applies="restart", unit="bytes", ge=16 * MIB
    )
    journal_keep: Span = setting(
        float(30 * DAY), "How long lines stay in the journal, if there is room", applies="restart", unit="seconds",
        ge=float(HOUR), le=float(3650 * DAY),
    )  # fmt: skip
    journal_burst: int = setting(
        10000, "Lines of one service in half a minute; what is more is dropped, and the journal says how many",
        applies="restart", ge=100, le=10_000_000,
    )  # fmt: skip
    ntp_servers: tuple[str, ...] = setting(
        ("0.debian.pool.ntp.org", "1.debian.pool.ntp.org"), "Time servers", applies="restart"
    )
    somaxconn: int = setting(
        4096, "net.core.somaxconn, and the backlog of nginx and PHP-FPM", applies="reload", ge=128, le=65535
    )
    tcp_retries2: int = setting(
        6, "net.ipv4.tcp_retries2: a connection to a peer that is gone is given up after about 25 s, not 15 minutes",
        applies="hot", ge=3, le=15,
    )  # fmt: skip
    disk_reserve: Size = setting(512 * MIB, "Free disk below which nothing is changed", applies="write", unit="bytes")
    updates: Literal["off", "security"] = setting(
        "security", "Debian's security updates that a host installs by itself: none, or all but those of the fleet's"
        " servers, which are roll's; it never boots by itself", applies="write",
    )  # fmt: skip
    sandbox: bool = setting(
        True, "Take from the units of Debian's own packages (database, broker, web server, proxy) what they do not need"
        " of the host; the fleet's own units are always confined", applies="restart",
    )  # fmt: skip
    service_nofile: int = setting(65536, "LimitNOFILE of the stateful services", applies="restart", ge=1024, le=1048576)


def _permitted(text: str) -> str:
    """A network in its usual form, or a name."""
    if re.fullmatch(r"[0-9./]+", text):
        return str(ip_network(text))
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*", text):
        raise ValueError("neither a network, such as 10.0.0.0/24, nor a lower-case host or domain name")
    return text


class Trust(Section):
    """The inventory's certificate authority and the services' certificates (spec: Certificate Setup)."""

    authority_bits: int = setting(4096, "RSA key of the CA", applies="create", unit="bits", ge=2048, le=8192)
    authority_days: int = setting(365, "Life of the CA certificate", applies="create", unit="days", ge=1, le=7300)
    permitted: tuple[Annotated[str, AfterValidator(_permitted)], ...] = setting(
        (), "Hosts' names (all that end in one too) and networks that the CA may sign for, those of hosts to come "
        "included; empty: any. Beside them the catalog's names and localhost", applies="create",
    )  # fmt: skip
    key_type: Literal["rsa2048", "rsa3072", "rsa4096", "p256"] = setting(
        "rsa2048", "Keys of the services", applies="reload"
    )
    leaf_days: int = setting(
        365,
        "Life of a service certificate; never beyond the CA's",
        applies="reload",
        unit="days",
        ge=1,
        le=825,
    )
    renew_days: int = setting(
        30, "Renew when fewer days than this are left, the revocation list too", applies="reload", unit="days", ge=0,
        le=365,
    )  # fmt: skip
    crl_days: int = setting(
        365, "Life of a revocation list; an expired one refuses everybody. Never beyond the CA's", applies="reload",
        unit="days", ge=2, le=825,
    )  # fmt: skip


class Redis(Section):
    """Both instances: `cache` (evicts) and `sessions` (never evicts)."""

    tls: bool = setting(
        True, "Mutual TLS between hosts: proxies, replicas, sentinels; without it, passwords and data cross the network"
        " in the clear", applies="restart",
    )  # fmt: skip
    maxmemory: Size = setting(2 * GIB, "Memory for the cache instance's data", applies="hot", unit="bytes", ge=1 * MIB)
    maxmemory_policy: Literal["allkeys-lru", "allkeys-lfu", "volatile-lru", "volatile-ttl", "noeviction"] = setting(
        "allkeys-lru", "What the cache evicts", applies="hot"
    )
    sessions_maxmemory: Size = setting(
        512 * MIB, "Memory for sessions; full means refused logins, not lost ones", applies="hot", unit="bytes",
        ge=1 * MIB,
    )  # fmt: skip
    tcp_keepalive: int = setting(300, "Seconds between keepalives", applies="hot", unit="seconds", ge=0, le=7200)
    appendonly: bool = setting(True, "Keep an append-only file", applies="hot")
    appendfsync: Literal["always", "everysec", "no"] = setting("everysec", "When the file is synced", applies="hot")
    maxclients: int = setting(10000, "Connections", applies="hot", ge=64, le=100000)
    timeout: int = setting(0, "Idle seconds until a client is cut (0: never)", applies="hot", unit="seconds", ge=0)
    min_replicas_to_write: int = setting(
        1,
        "Replicas that must keep up, or writes are refused (never more than there are)",
        applies="reload",
        ge=0,
        le=10,
    )
    min_replicas_max_lag: int = setting(
        10, "A replica silent for longer does not count; so long may a cut-off primary go on accepting writes",
        applies="hot", unit="seconds", ge=1, le=600,
    )  # fmt: skip
    replica_priority: int = setting(
        100, "Lower is promoted first; 0 never (a setting of single hosts)", applies="hot", ge=0, le=1000
    )
    repl_backlog_size: Size = setting(
        64 * MIB, "Backlog that lets a replica catch up without a full copy", applies="hot", unit="bytes",
        ge=1 * MIB,
    )  # fmt: skip
    slowlog_slower_than: int = setting(10000, "Log slower commands", applies="hot", unit="microseconds", ge=-1)
    tcp_backlog: int = setting(511, "Listen backlog", applies="restart", ge=64, le=65535)
    databases: int = setting(16, "Number of databases", applies="restart", ge=1, le=1024)


class Sentinel(Section):
    """What watches Redis. The quorum is the majority of the sentinels."""

    down_after: Span = setting(
        3.0, "Silence after which a primary counts as down", applies="hot", unit="seconds", ge=0.5, le=600
    )
    failover_timeout: Span = setting(
        10.0, "A failover that did not come about is tried again after twice this", applies="hot", unit="seconds",
        ge=1, le=3600,
    )  # fmt: skip
    parallel_syncs: int = setting(1, "Replicas that are given the new primary at a time", applies="hot", ge=1, le=100)


class Proxy(Section):
    """HAProxy on the client hosts."""

    check_interval: Span = setting(
        1.0, "Between two checks of a server", applies="reload", unit="seconds", ge=0.1, le=60
    )
    fall: int = setting(2, "Failed checks until a server is left", applies="reload", ge=1, le=100)
    rise: int = setting(2, "Good checks until a server is used", applies="reload", ge=1, le=100)
    maxconn: int = setting(4000, "Connections at a time", applies="reload", ge=100, le=100000)
    connect_timeout: Span = setting(
        2.0, "For a connection to a server", applies="reload", unit="seconds", ge=0.1, le=60
    )
    idle_timeout: Span = setting(
        8.0 * HOUR, "A silent connection is cut after this; not below mysql.wait_timeout", applies="reload",
        unit="seconds", ge=60,
    )  # fmt: skip
    hard_stop_after: Span = setting(
        60.0, "What was connected before a reload is cut after this: the process that serves it no longer checks who "
        "leads", applies="reload", unit="seconds", ge=1, le=3600,
    )  # fmt: skip
    cut_sessions: bool = setting(
        True, "Cut the connections to a server that no longer serves (else they go on until they fail)",
        applies="reload",
    )  # fmt: skip


class Rabbitmq(Section):
    """The broker. `user` is the spec's name; its password is generated."""

    tls: bool = setting(
        True, "AMQP and the management API by mutual TLS between hosts (on a host's loopback both stay as they are); "
        "members change one by one, see docs/certificates.md", applies="restart",
    )  # fmt: skip
    inter_node_tls: bool = setting(
        True, "Members talk to one another by mutual TLS. They all do or none does: a cluster that runs stays as it is"
        " until every member was stopped, see docs/certificates.md", applies="restart",
    )  # fmt: skip
    user: Name = setting("omegaup", "The application's user", applies="restart")
    vhost: str = setting("/", "The application's virtual host", applies="restart")
    vm_memory_high_watermark: float = setting(
        0.6, "Share of the host's memory at which publishers are blocked", applies="hot", gt=0, le=0.8
    )
    disk_free_limit: Size = setting(
        2 * 1000**3, "Free disk at which publishers are blocked (the spec's 2GB is decimal)", applies="hot",
        unit="bytes", ge=50 * 1000**2,
    )  # fmt: skip
    channel_max: int = setting(2000, "Channels per connection", applies="restart", ge=1, le=65535)
    heartbeat: int = setting(60, "Heartbeat", applies="restart", unit="seconds", ge=0, le=3600)
    net_ticktime: int = setting(
        5, "Members take one that is silent for lost, give or take a quarter (the broker's own default is 60);"
        " a publisher to a queue that such a one led waits for as long", applies="hot", unit="seconds", ge=5, le=120,
    )  # fmt: skip
    max_message_size: Size = setting(
        16 * MIB, "Largest message", applies="restart", unit="bytes", ge=64 * KIB, le=512 * MIB
    )
    consumer_timeout: Span = setting(
        1800.0, "Longest time for an acknowledgement", applies="restart", unit="seconds", ge=60
    )
    # The broker counts the death of a worker, a member or a connection like a fault of the message. In a bad hour one
    # message may have some of them; only one that kills whoever takes it has twenty (what RabbitMQ 4 does by itself).
    delivery_limit: int = setting(
        20, "Redeliveries before a message goes to the dead letters", applies="hot", ge=1, le=1000
    )


class Mysql(Section):
    """The database: MariaDB by default."""

    database: Name = setting("omegaup", "The application's database", applies="restart")
    user: Name = setting("omegaup", "The application's user", applies="reload")
    innodb_buffer_pool_size: Size = setting(512 * MIB, "Buffer pool", applies="hot", unit="bytes", ge=5 * MIB)
    max_connections: int = setting(200, "Connections", applies="hot", ge=10, le=100000)
    innodb_flush_log_at_trx_commit: Literal[0, 1, 2] = setting(1, "1: no commit is lost", applies="hot")
    sync_binlog: int = setting(1, "1: no commit is lost from the binary log", applies="hot", ge=0, le=1000)
    binlog_expire: Span = setting(
        float(7 * DAY), "How long binary logs are kept", applies="hot", unit="seconds", ge=float(HOUR),
        le=float(99 * DAY),
    )  # fmt: skip
    max_allowed_packet: Size = setting(64 * MIB, "Largest packet", applies="hot", unit="bytes", ge=1 * MIB, le=1 * GIB)
    long_query_time: float = setting(1.0, "Log slower queries", applies="hot", unit="seconds", ge=0)
    wait_timeout: int = setting(28800, "Idle seconds until a client is cut", applies="hot", unit="seconds", ge=1)
    slave_net_timeout: int = setting(30, "Replica waits for its primary", applies="hot", unit="seconds", ge=5)
    slave_parallel_threads: int = setting(4, "Threads with which a replica applies", applies="hot", ge=0, le=64)
    semi_sync: bool = setting(True, "A commit counts when a replica has it too", applies="hot")
    semi_sync_wait_point: Literal["AFTER_SYNC", "AFTER_COMMIT"] = setting(
        "AFTER_SYNC", "AFTER_SYNC: nobody sees what could still be lost", applies="hot"
    )
    semi_sync_timeout: Span = setting(
        60.0, "How long a commit waits for a replica; then it goes on without (and a failover may lose it)",
        applies="hot", unit="seconds", ge=0.1, le=86400,
    )  # fmt: skip
    max_lag: Span = setting(
        30.0, "A replica further behind is given no reads", applies="restart", unit="seconds", ge=0, le=86400
    )
    innodb_log_file_size: Size = setting(96 * MIB, "Redo log", applies="hot", unit="bytes", ge=4 * MIB)
    tls: bool = setting(
        True, "Its clients and replicas come by TLS, with a certificate of their role; off: by password alone, in plain"
        " text", applies="restart",
    )  # fmt: skip


class Backend(Section):
    """Common to the four backend services."""

    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Verbosity", applies="restart")


class Grader(Backend):
    run_lease: Span = setting(
        60.0, "A runner that is silent for longer loses its run to another", applies="restart", unit="seconds",
        ge=1, le=3600,
    )  # fmt: skip
    mysql_pool: int = setting(4, "Database connections", applies="restart", ge=1, le=64)


class Gitserver(Backend):
    pass


class Broadcaster(Backend):
    history: int = setting(100, "Events kept for each contest", applies="restart", ge=0, le=100000)


class Runner(Backend):
    slots: int = setting(1, "Runs at a time", applies="restart", ge=1, le=64)
    judge: Literal["sandbox", "noop"] = setting(
        "sandbox", "sandbox: submissions are executed; noop: nothing is, and everything accepted", applies="restart"
    )
    languages: tuple[Literal["c11-gcc", "cpp17-gcc", "py3"], ...] = setting(
        ("c11-gcc", "cpp17-gcc", "py3"), "Languages whose compilers are installed", applies="write"
    )
    sandbox_memory: Size = setting(
        1 * GIB, "Memory of one box, all its processes and files together", applies="write", unit="bytes", ge=128 * MIB
    )
    sandbox_without: tuple[Literal["memory.max", "pids.max"], ...] = setting(
        (), "Limits of a box's control group that this host's kernel cannot give (no control groups v2): fewer "
        "processes, each with its own limit, must do", applies="write",
    )  # fmt: skip
    sandbox_disk: Size = setting(
        128 * MIB, "What one box may write, in memory", applies="write", unit="bytes", ge=8 * MIB
    )


class Worker(Backend):
    prefetch: int = setting(
        10, "Statistics that the worker has in hand at a time; of certificates and mails, which take longer, it is one",
        applies="restart", ge=1, le=1000,
    )  # fmt: skip
    mysql_pool: int = setting(1, "Database connections of each worker", applies="restart", ge=1, le=16)
    mail_relay: HostName = setting(
        "localhost", "The mail server that takes notifications; they wait in the queue while it is away",
        applies="restart",
    )  # fmt: skip
    mail_port: int = setting(25, "Its port", applies="restart", ge=1, le=65535)
    mail_tls: Literal["none", "starttls", "tls"] = setting(
        "none", "How mail is encrypted on its way to the relay; its certificate is checked against the system's CAs",
        applies="restart",
    )  # fmt: skip
    mail_sender: MailAddress = setting("noreply@localhost", "From whom notifications are", applies="restart")


class Frontend(Section):
    """nginx and PHP-FPM."""

    fpm_max_children: int = setting(16, "PHP processes", applies="reload", ge=1, le=2000)
    fpm_start_servers: int = setting(4, "PHP processes at the start", applies="reload", ge=1, le=500)
    fpm_min_spare: int = setting(2, "Fewest idle PHP processes", applies="reload", ge=1, le=500)
    fpm_max_spare: int = setting(6, "Most idle PHP processes", applies="reload", ge=1, le=500)
    fpm_max_requests: int = setting(500, "Requests until a PHP process is replaced", applies="reload", ge=0)
    fpm_child_memory: Size = setting(
        64 * MIB, "Expected memory of one PHP process (for the check against the host's)", applies="write",
        unit="bytes",
    )  # fmt: skip
    memory_limit: Size = setting(256 * MIB, "PHP's memory_limit", applies="reload", unit="bytes", ge=32 * MIB)
    body_max: Size = setting(
        100 * MIB,
        "Largest request body, the same for nginx and PHP",
        applies="reload",
        unit="bytes",
        ge=1 * MIB,
    )
    worker_connections: int = setting(1024, "nginx connections per worker", applies="reload", ge=64, le=65535)
    address_requests: int | None = setting(
        None, "Requests of one address that are in hand at a time on a web host, open streams of events included; one "
        "more is answered with 429. Unset: three tenths of worker_connections. A school behind one address needs more "
        "of both", applies="reload", ge=8, le=32767,
    )  # fmt: skip
    request_timeout: Span = setting(
        60.0, "A PHP request is ended after this", applies="reload", unit="seconds", ge=5, le=3600
    )
    patience: Span = setting(
        6.0, "A request is tried again for so long while a part that it needs is away (a failover, a restart)",
        applies="reload", unit="seconds", ge=0, le=30,
    )  # fmt: skip
    redis_timeout: Span = setting(1.0, "Redis is waited for", applies="reload", unit="seconds", ge=0.1, le=30)
    mysql_timeout: Span = setting(
        2.0, "The database is waited for, in whole seconds", applies="reload", unit="seconds", ge=1, le=30
    )
    rabbitmq_timeout: Span = setting(
        2.0, "The broker is waited for: its connection and its confirmation", applies="reload", unit="seconds", ge=0.1,
        le=30,
    )  # fmt: skip
    backend_timeout: Span = setting(
        10.0, "The grader and the gitserver are waited for", applies="reload", unit="seconds", ge=0.5, le=60
    )
    rate_limit: int = setting(60, "Submissions per minute and address", applies="reload", ge=1, le=100000)

    @property
    def of_one_address(self) -> int:
        """Requests of one address in hand. A stream of events takes two of nginx's connections."""
        return self.address_requests or self.worker_connections * 3 // 10


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ArtifactSource = Annotated[
    str,
    StringConstraints(
        pattern=r"^(https?://[A-Za-z0-9._~:/?#!&()*+,;=%-]+|[A-Za-z0-9._/][A-Za-z0-9._+/-]*)$", max_length=500
    ),
]


class Artifact(Section):
    """A release as its maker offers it: an archive that tar reads, or the one file itself."""

    source: ArtifactSource = Field(
        description="Where a host fetches it (http, https); or a file of the controller's, relative to the inventory"
    )
    sha256: Digest = Field(description="What it must hash to, whoever hands it out")


class Upstream(Section):
    """The real omegaUp: its releases, and what its programs cannot find out by themselves (docs/upstream.md)."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9.:-]+$")] = setting(
        "http://localhost", "The site as its users have it (OMEGAUP_URL)", applies="reload"
    )
    csrf_hosts: tuple[HostName, ...] = setting(
        (), "Further names under which the site is asked (OMEGAUP_CSRF_HOSTS)", applies="reload"
    )
    backend: Artifact | None = setting(None, "Grader and broadcaster: omegaup-backend.tar.xz", applies="restart")
    runner: Artifact | None = setting(None, "omegaup-runner.tar.xz", applies="restart")
    gitserver: Artifact | None = setting(None, "omegaup-gitserver.tar.xz", applies="restart")
    omegajail: tuple[Artifact, ...] = setting(
        (),
        "The runner's sandbox: its distribution and its root file systems, unpacked over each other",
        applies="restart",
    )
    libinteractive: Artifact | None = setting(None, "libinteractive.jar, read at each use", applies="write")
    frontend: Artifact | None = setting(
        None, "The built site, and the workers' scripts: what is to lie in /opt/omegaup, dependencies and compiled "
        "templates included", applies="restart",
    )  # fmt: skip
    python: Artifact | None = setting(
        None,
        "Python modules of the workers and of db-migrate, as `pip install --target` lays them out",
        applies="restart",
    )
    migrations_read: Digest | Literal[""] = setting(
        "", "sha256 of the frontend release whose migrations somebody has read and found good for the release that "
        "runs as well; without it no database that is in use is migrated", applies="write",
    )  # fmt: skip
    releases_kept: int = setting(
        3, "Releases of each kind that stay on a host, to go back to", applies="write", ge=2, le=20
    )
    php_constants: dict[Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]+$")], str | int | bool] = setting(
        {}, "Further constants of config.php (no secrets); those that this project sets cannot be changed here",
        applies="reload",
    )  # fmt: skip


class MailRoute(Section):
    """Who gets mail, and by which server."""

    to: tuple[Mail, ...] = Field(min_length=1, description="Who gets it")
    sender: Mail = Field(description="From whom it comes")
    relay: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+:\d{1,5}$")] = Field(
        description="HOST:PORT of the mail server; it must offer STARTTLS"
    )
    user: Annotated[str, StringConstraints(pattern=r"^\S*$")] = Field(
        default="", description="Its user, with the secret monitoring/mail as password; empty: no login"
    )


class Monitoring(Section):
    """Prometheus, its exporters, and who is told. Secrets of the receivers: `fleet secrets set`."""

    scrape_interval: Span = setting(15.0, "Between two scrapes", applies="reload", unit="seconds", ge=1, le=3600)
    retention: Span = setting(
        float(15 * DAY), "How long samples are kept", applies="restart", unit="seconds", ge=float(HOUR)
    )
    retention_size: Size = setting(4 * GIB, "Disk that samples may take", applies="restart", unit="bytes", ge=64 * MIB)
    webhook: Url = setting(
        "", "Alerts are posted here as well, with the secret monitoring/webhook as bearer token; empty: nowhere",
        applies="reload",
    )  # fmt: skip
    deadman: Url = setting(
        "", "Called every minute for as long as alerting works: whatever answers there, outside this fleet, has to "
        "notice when the calls end; empty: nobody does", applies="reload",
    )  # fmt: skip
    mail: MailRoute | None = setting(None, "Alerts that page a person are mailed as well", applies="reload")
    repeat: Span = setting(
        float(4 * HOUR), "An alert that goes on is told again after this", applies="reload", unit="seconds",
        ge=float(MINUTE), le=float(7 * DAY),
    )  # fmt: skip
    queue_length: int = setting(
        200, "Submissions or messages that wait: more than this for ten minutes is a warning", applies="reload", ge=1
    )
    latency: Span = setting(
        2.0, "A slower 99th percentile of the site's answers is a warning", applies="reload", unit="seconds", ge=0.05,
        le=60,
    )  # fmt: skip
    logs_max: Size = setting(
        4 * GIB, "Disk that the journals of all hosts may take on the monitoring host: more than 128 MiB a host",
        applies="write", unit="bytes", ge=256 * MIB,
    )  # fmt: skip
    logs_keep: Span = setting(
        float(30 * DAY), "How long their lines stay there, if there is room", applies="write", unit="seconds",
        ge=float(HOUR), le=float(3650 * DAY),
    )  # fmt: skip
    page_from: tuple[Network, ...] = setting(
        (), "Networks from which people reach the status page by mutual TLS (fleet pki operator makes their "
        "certificates); empty: on the monitoring host alone, through SSH", applies="reload",
    )  # fmt: skip
    alerts_kept: int = setting(
        2000, "Notifications that the host keeps for the status page", applies="restart", ge=10, le=100000
    )


Source = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]+$")]
Pin = Annotated[str, StringConstraints(pattern=r"^[0-9][A-Za-z0-9.+:~-]*$")]


class Packages(Section):
    """Versions that are held. What is not named here stays at the version that it was installed with."""

    pins: dict[Source, Pin] = setting(
        {},
        "Debian source package -> exact version of all its packages, as `apt-cache policy` shows it",
        applies="restart",
    )


class Roll(Section):
    """How `fleet roll` watches what it does. Read from the first host of the inventory."""

    canary_seconds: Span = setting(
        30.0, "How long the first member of a service is watched before the next is touched", applies="write",
        unit="seconds", ge=0, le=86400,
    )  # fmt: skip
    reads: int = setting(
        3, "A gate holds when it was seen to hold so many times in a row", applies="write", ge=1, le=100
    )
    read_interval: Span = setting(1.0, "Between two looks of a gate", applies="write", unit="seconds", ge=0.1, le=60)
    before_seconds: Span = setting(
        30.0, "How long a service may take to be well before a member is touched; then the roll refuses",
        applies="write", unit="seconds", ge=1, le=3600,
    )  # fmt: skip
    reboot_seconds: Span = setting(
        600.0, "How long a host may take to boot", applies="write", unit="seconds", ge=10, le=86400
    )
    after_seconds: Span = setting(
        180.0, "How long a member may take to be back and well after its restart; then it goes back", applies="write",
        unit="seconds", ge=5, le=86400,
    )  # fmt: skip


class WaiverSetting(Section):
    """A parameter that this inventory's hosts cannot take, and why."""

    what: str = Field(description="The resource's key, as plan shows it; a trailing * matches a prefix")
    why: str = Field(min_length=10, description="The reason, for whoever reads the plan")


class HostFacts(Section):
    """What is known of a host before it is looked at."""

    address: str | None = Field(default=None, description="Address that other hosts use; default: ssh_hostname")
    memory: Size | None = Field(default=None, description="Memory, to check sizes before the host is reachable")
    zone: str = Field(default="", description="Failure domain, such as a rack: a roll ends with one before the next")


class Settings(Section):
    """All sections, as one host of an inventory sees them."""

    def named(self, name: str) -> Any:
        """The value of a setting by SECTION.NAME, as the catalog's ports name one."""
        section, _, key = name.partition(".")
        return getattr(getattr(self, section), key)

    base: Base = Base()
    trust: Trust = Trust()
    redis: Redis = Redis()
    sentinel: Sentinel = Sentinel()
    proxy: Proxy = Proxy()
    rabbitmq: Rabbitmq = Rabbitmq()
    mysql: Mysql = Mysql()
    grader: Grader = Grader()
    gitserver: Gitserver = Gitserver()
    broadcaster: Broadcaster = Broadcaster()
    runner: Runner = Runner()
    worker: Worker = Worker()
    frontend: Frontend = Frontend()
    upstream: Upstream = Upstream()
    monitoring: Monitoring = Monitoring()
    packages: Packages = Packages()
    roll: Roll = Roll()
    machine: HostFacts = HostFacts()
    waivers: tuple[WaiverSetting, ...] = ()
    environment: Literal["production", "development"] = "production"
    profile: Literal["reference", "upstream"] = "reference"
