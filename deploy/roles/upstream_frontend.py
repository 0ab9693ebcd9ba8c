"""The web hosts of the real omegaUp: nginx, PHP-FPM and the built site in /opt/omegaup.

/opt/omegaup is a link to the release in use: a rewrite rule of the site's and db-migrate have that path built in. The
site reads its constants from a file inside itself, which is made a link to ours when a release is unpacked.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Iterator

from deploy.model.fleet import Context
from deploy.model.profiles import UPSTREAM
from deploy.model.resources import (
    Account,
    Directory,
    File,
    Link,
    Package,
    Resource,
)
from deploy.model.ways import Way
from deploy.roles import graceful, upstream_release
from deploy.roles import upstream_backend as backend
from deploy.roles.nginx import nginx
from deploy.roles.php import ACCOUNT, php_fpm
from deploy.roles.upstream_release import Release

ROOT = "/opt/omegaup"
CONFIG = "/etc/omegaup/frontend/config.php"
LOGS = "/var/log/omegaup"
TEMPLATES = f"{backend.STATE}/templates"
REWRITES = f"{ROOT}/frontend/server/nginx.rewrites"

Value = str | int | bool | tuple[str, ...]

ACCOUNTS = ("OMEGAUP_FB_APPID", "OMEGAUP_GOOGLE_CLIENTID", "OMEGAUP_GITHUB_CLIENT_ID", "OMEGAUP_GA_ID")
"""Of an operator's at others. In production the site answers nothing but 500 while one of them, or of some twenty
constants in all, is missing, empty or upstream's own (bootstrap.php).
"""

PHP_VALUES = {
    # It starts java for interactive problems, and reads what it mails and shows from elsewhere.
    "disable_functions": "",
    "allow_url_fopen": "1",
    "max_file_uploads": "50",
}


def release(ctx: Context) -> Release:
    return Release(
        "frontend", upstream_release.artifact(ctx, "frontend"),
        (
            "frontend/www", "frontend/server/bootstrap.php", "frontend/server/nginx.rewrites", "frontend/database",
            "stuff/db-migrate.py", "stuff/pipelines/client_contest.py",
        ),
        links={"frontend/server/config.php": CONFIG},
    )  # fmt: skip


def python(ctx: Context) -> Release:
    """What the site's Python scripts import and Debian has not, or not new enough."""
    return Release("python", upstream_release.artifact(ctx, "python"), ("pika",))


def constants(ctx: Context) -> dict[str, Value]:
    """The site's constants (config.default.php). Those that are not here are as the inventory's `php_constants` say, or
    as upstream has them.
    """
    profile, settings = UPSTREAM, ctx.settings
    clone = base64.b64encode(ctx.secret("upstream/course-clone")[:32].encode()).decode()
    rabbitmq_user, rabbitmq_password = ctx.login(settings.rabbitmq.user, "rabbitmq/app")
    own: dict[str, Value] = {
        "OMEGAUP_ENVIRONMENT": settings.environment,
        "OMEGAUP_URL": settings.upstream.url,
        "OMEGAUP_CSRF_HOSTS": settings.upstream.csrf_hosts,
        "OMEGAUP_DB_HOST": f"mysql:{profile.port('mysql', 'mysql')}",
        "OMEGAUP_DB_USER": settings.mysql.user,
        "OMEGAUP_DB_PASS": ctx.secret("mysql/app"),
        "OMEGAUP_DB_NAME": settings.mysql.database,
        "OMEGAUP_GRADER_URL": backend.url("grader", "https"),
        "OMEGAUP_GRADER_SECRET": ctx.secret("upstream/grader"),
        "OMEGAUP_GITSERVER_URL": backend.url("gitserver", "http", "http"),
        "OMEGAUP_GITSERVER_SECRET_TOKEN": ctx.secret("upstream/gitserver"),
        "OMEGAUP_GITSERVER_SECRET_KEY": backend.gitserver_key(ctx)[0],
        "OMEGAUP_GITSERVER_PUBLIC_KEY": backend.gitserver_key(ctx)[1],
        "OMEGAUP_RABBITMQ_HOST": "rabbitmq",
        "OMEGAUP_RABBITMQ_PORT": profile.port("rabbitmq", "amqp"),
        "OMEGAUP_RABBITMQ_USERNAME": rabbitmq_user,
        "OMEGAUP_RABBITMQ_PASSWORD": rabbitmq_password,
        # The other implementations are a host's own.
        "OMEGAUP_CACHE_IMPLEMENTATION": "redis",
        "REDIS_HOST": "redis",
        "REDIS_PORT": profile.port("redis", "cache"),
        "REDIS_PASS": ctx.secret("redis/app"),
        "OMEGAUP_LOG_FILE": f"{LOGS}/omegaup.log",
        "OMEGAUP_CSP_LOG_FILE": f"{LOGS}/csp.log",
        "OMEGAUP_JSERROR_LOG_FILE": f"{LOGS}/jserror.log",
        "TEMPLATE_CACHE_DIR": TEMPLATES,
        "OMEGAUP_MD5_SALT": ctx.secret("upstream/salt"),
        "OMEGAUP_EXPERIMENT_SECRET": ctx.secret("upstream/experiments"),
        # A key of 32 bytes, in base64 without its end (PASETO, version 2).
        "OMEGAUP_COURSE_CLONE_SECRET_KEY": clone.rstrip("="),
        "OMEGAUP_FB_SECRET": ctx.secret("upstream/facebook"),
        "OMEGAUP_GOOGLE_SECRET": ctx.secret("upstream/google"),
        "OMEGAUP_GITHUB_CLIENT_SECRET": ctx.secret("upstream/github"),
        "OMEGAUP_RECAPTCHA_SECRET": ctx.secret("upstream/recaptcha"),
    }
    return {**dict.fromkeys(ACCOUNTS, "none"), **settings.upstream.php_constants, **own}


def literal(value: Value) -> str:
    """A value as PHP writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def desired(ctx: Context) -> Iterable[Resource]:
    own = release(ctx)
    yield from _packages(ctx)
    yield Account(name=ACCOUNT)
    yield backend.account()
    yield from _folders()
    yield from upstream_release.unpacked(ctx, own)
    yield upstream_release.switched(ctx, own)
    yield Link(path=ROOT, target=own.current)
    yield from backend.java(ctx)
    yield from backend.bundle(ctx, "frontend", ACCOUNT)
    yield from _configuration(ctx)
    yield from php_fpm(ctx, (CONFIG, own.file), (), PHP_VALUES)
    values = {
        "rewrites": REWRITES, "http": UPSTREAM.port("frontend", "http"),
        "broadcaster": f"broadcaster:{UPSTREAM.port('broadcaster', 'events')}",
        "grader": f"grader:{UPSTREAM.port('grader', 'ephemeral')}",
    }  # fmt: skip
    yield from nginx(ctx, f"{ROOT}/frontend/www", "upstream/nginx.conf.j2", values, (REWRITES,))


def ways(ctx: Context) -> Iterable[Way]:
    for unit in UPSTREAM.service("frontend").units_on(ctx.release):
        yield graceful.way("frontend", unit, unit.removesuffix(".service").removesuffix("-fpm"))


def _packages(ctx: Context) -> Iterator[Package]:
    php = f"php{ctx.release.php}"
    for name in ("cli", "mysql", "curl", "gmp", "mbstring", "xml", "zip"):
        yield Package(name=f"{php}-{name}", source=php)
    yield Package(name=f"{php}-apcu", source="php-apcu")
    yield Package(name="php-redis")


def _folders() -> Iterator[Directory]:
    yield from backend.directories()
    yield Directory(path=TEMPLATES, owner=ACCOUNT, group=ACCOUNT, mode=0o750)
    yield Directory(path=LOGS, owner=ACCOUNT, group="adm", mode=0o2750)


def _configuration(ctx: Context) -> Iterator[Resource]:
    wanted = constants(ctx)
    names = ", ".join(f"'{name}'" for name in wanted)
    # PHP itself reads it: it says nothing, and everything is defined afterwards.
    ask = (
        "ob_start(); require getenv('CANDIDATE'); $said = ob_get_clean();"
        "if ($said !== '') { fwrite(STDERR, 'it prints something'); exit(1); }"
        f'foreach ([{names}] as $name) if (!defined($name)) {{ fwrite(STDERR, "$name is not defined"); exit(1); }}'
    )
    yield File(
        path=CONFIG, group=ACCOUNT, mode=0o640, secret=True,
        content=ctx.render("frontend/config.php.j2", constants={name: literal(of) for name, of in wanted.items()}),
        check=f"php{ctx.release.php} -d display_errors=stderr -r {shlex.quote(ask)}",
    )  # fmt: skip
    yield File(path="/etc/logrotate.d/fleet-omegaup", content=ctx.render("upstream/logrotate.j2", logs=LOGS))
