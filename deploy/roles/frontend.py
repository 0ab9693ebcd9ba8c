"""The web hosts: nginx, PHP-FPM and the reference frontend.

The application lies beside its earlier releases, and one link says which is served. A configuration counts as loaded
when the running server says so (proven.py), not when a reload answered.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping

from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import (
    Account,
    Directory,
    File,
    Link,
    Only,
    Package,
    Parameter,
    Phase,
    Query,
    Resource,
    StepClass,
)
from deploy.model.ways import Way
from deploy.roles import graceful, mysql_tls
from deploy.roles.backend import url
from deploy.roles.common import CA_FILE, CRL_FILE, certificate
from deploy.roles.nginx import nginx
from deploy.roles.php import ACCOUNT, php_fpm
from deploy.roles.redis import min_replicas

HOME = "/opt/omegaup/frontend"
ROOT = f"{HOME}/www"
"""The document root: a link into the current release."""

CONFIG = "/etc/omegaup/frontend/config.php"
RELEASE_FILE = f"{HOME}/release"
"""Names the release that `current` leads to; PHP that has loaded another is owed a reload."""

KEPT_RELEASES = 3


def desired(ctx: Context) -> Iterable[Resource]:
    for name in ("php-redis", "php-amqplib"):
        yield Package(name=name)
    php = f"php{ctx.release.php}"
    for name in ("cli", "mysql", "curl", "mbstring"):
        yield Package(name=f"{php}-{name}", source=php)
    yield Package(name=f"{php}-apcu", source="php-apcu")
    yield Account(name=ACCOUNT)
    pair = certificate(ctx, "frontend")
    yield pair
    target, files = release(ctx)
    yield from _code(ctx, target, files)
    yield from _configuration(ctx, target)
    yield from php_fpm(ctx, (CONFIG, RELEASE_FILE), tuple(f"{target}/{path}" for path in files))
    shown = {"broadcaster": url("broadcaster"), "pair": pair, "ca": CA_FILE, "crl": CRL_FILE}
    yield from nginx(ctx, ROOT, "frontend/nginx.conf.j2", shown, (pair.certificate_path, CA_FILE, CRL_FILE))


def ways(ctx: Context) -> Iterable[Way]:
    for unit in SERVICES["frontend"].units_on(ctx.release):
        yield graceful.way("frontend", unit, unit.removesuffix(".service").removesuffix("-fpm"))


def release(ctx: Context) -> tuple[str, Mapping[str, str]]:
    """(folder, files) of the application: what runs, not its SQL or its sample of a configuration."""
    files = {
        path: content.decode() for path, content in ctx.files("frontend").items() if path.startswith(("src/", "www/"))
    }
    digest = hashlib.sha256()
    for path, content in files.items():
        digest.update(f"{path}\0{len(content)}\0{content}".encode())
    return f"{HOME}/releases/{digest.hexdigest()[:16]}", files


def _code(ctx: Context, target: str, files: Mapping[str, str]) -> Iterator[Resource]:
    folders = sorted({folder for path in files for folder in _folders(path)})
    for path in ("/opt/omegaup", HOME, f"{HOME}/releases", target, *(f"{target}/{folder}" for folder in folders)):
        yield Directory(path=path)
    for path, content in files.items():
        yield File(path=f"{target}/{path}", content=content, phase=Phase.ACCOUNTS)
    query = Query(
        "frontend",
        f"printf 'release\\t%s\\n' \"$(readlink -- {HOME}/current || true)\"\n"
        f"[ ! -d {target} ] || find {target} -mindepth 1 -printf 'file-%P\\t%y\\n'",
    )
    yield Only(
        query=query, prefix="file-", names=frozenset(f"file-{path}" for path in (*files, *folders)),
        act=f'rm -rf -- {target}/"$NAME"', phase=Phase.ACCOUNTS,
    )  # fmt: skip
    yield Parameter(
        query=query, name="release", want=target, step=StepClass.WRITE, phase=Phase.FILES, label="frontend: release",
        act=ctx.render("frontend/release.sh.j2", target=target, home=HOME, php=ctx.release.php, kept=KEPT_RELEASES,
        files=" ".join(shlex.quote(f"{target}/{path}") for path in files if path.endswith(".php"))),
    )  # fmt: skip
    yield File(path=RELEASE_FILE, content=f"{target}\n")
    yield Link(path=ROOT, target="current/www")


def _folders(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for depth in range(len(parts)):
        yield "/".join(parts[: depth + 1])


def _configuration(ctx: Context, target: str) -> Iterator[Resource]:
    redis, rabbitmq, mysql = SERVICES["redis"], SERVICES["rabbitmq"], SERVICES["mysql"]
    settings = ctx.settings
    rabbitmq_user, rabbitmq_password = ctx.login(settings.rabbitmq.user, "rabbitmq/app")
    constants: dict[str, str | int | bool] = {
        "REDIS_HOST": "redis",
        "REDIS_PORT": redis.port("cache").number,
        "REDIS_USER": "app",
        "REDIS_PASS": ctx.secret("redis/app"),
        "REDIS_SESSIONS_HOST": "redis",
        "REDIS_SESSIONS_PORT": redis.port("sessions").number,
        "REDIS_SESSIONS_PASS": ctx.secret("redis/app"),
        "REDIS_SESSIONS_REPLICAS": min_replicas(ctx),
        "OMEGAUP_DB_HOST": f"mysql:{mysql.port('mysql').number}",
        "OMEGAUP_DB_USER": settings.mysql.user,
        "OMEGAUP_DB_PASS": ctx.secret("mysql/app"),
        "OMEGAUP_DB_NAME": settings.mysql.database,
        "OMEGAUP_DB_TLS": mysql_tls.on(ctx),
        "OMEGAUP_DB_TLS_INSIST_FILE": mysql_tls.insist_file("frontend"),
        "OMEGAUP_RABBITMQ_HOST": "rabbitmq",
        "OMEGAUP_RABBITMQ_PORT": rabbitmq.port("amqp").number,
        "OMEGAUP_RABBITMQ_USERNAME": rabbitmq_user,
        "OMEGAUP_RABBITMQ_PASSWORD": rabbitmq_password,
        "OMEGAUP_RABBITMQ_VHOST": settings.rabbitmq.vhost,
        "OMEGAUP_GRADER_URL": url("grader"),
        "OMEGAUP_GITSERVER_URL": url("gitserver"),
        "OMEGAUP_SSL_DIR": SSL_DIR,
        "OMEGAUP_RATE_LIMIT": settings.frontend.rate_limit,
        "OMEGAUP_PATIENCE_SECONDS": int(settings.frontend.patience),
        "OMEGAUP_REDIS_TIMEOUT_MS": int(1000 * settings.frontend.redis_timeout),
        "OMEGAUP_DB_TIMEOUT_MS": int(1000 * settings.frontend.mysql_timeout),
        "OMEGAUP_RABBITMQ_TIMEOUT_MS": int(1000 * settings.frontend.rabbitmq_timeout),
        "OMEGAUP_BACKEND_TIMEOUT_MS": int(1000 * settings.frontend.backend_timeout),
        # A login without a password, to show how sessions are kept. Never in production.
        "OMEGAUP_REFERENCE_LOGIN": settings.environment == "development",
    }
    php = f"php{ctx.release.php} -d display_errors=stderr"
    application = f"require '{target}/src/autoload.php'; OmegaUp\\Config::load();"
    yield Directory(path="/etc/omegaup/frontend", group=ACCOUNT, mode=0o750)
    yield File(
        path=CONFIG, group=ACCOUNT, mode=0o640, secret=True,
        content=ctx.render("frontend/config.php.j2", constants={name: literal(of) for name, of in constants.items()}),
        # The application itself says whether it can work with it.
        check=f'OMEGAUP_CONFIG="$CANDIDATE" {php} -r {shlex.quote(application)}',
    )  # fmt: skip
    yield mysql_tls.insists(ctx, "frontend")


def literal(value: str | int | bool) -> str:
    """A value as PHP writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
