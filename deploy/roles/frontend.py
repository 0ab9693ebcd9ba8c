"""The web hosts: nginx, PHP-FPM and the reference frontend.

The application lies beside its earlier releases, and one link says which is served. Configuration is believed to be in
force when the running servers say so (see proven.py), not when a reload answered.
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
    Unit,
)
from deploy.model.secrets import SecretSpec
from deploy.roles.backend import url
from deploy.roles.common import certificate
from deploy.roles.proven import dated, older, reloaded

SECRETS: Mapping[str, SecretSpec] = {"mysql/app": SecretSpec("password", "MySQL: frontend, worker")}

ACCOUNT = "omegaup-frontend"
HOME = "/opt/omegaup/frontend"
ROOT = f"{HOME}/www"
CONFIG = "/etc/omegaup/frontend/config.php"
NGINX = "/etc/nginx/nginx.conf"
SOCKET = "/run/php/omegaup.sock"
STATUS_SOCKET = "/run/php/omegaup-status.sock"
PROBE_SOCKET = "/run/php/fleet.sock"
PROBE = "/usr/local/lib/fleet/php-values.php"
STATUS = "/fleet/fpm"
SLOWLOG = "/var/log/omegaup-frontend.slow.log"
KEPT_RELEASES = 3
PATIENCE = 10
"""Seconds that PHP-FPM gives requests in hand at a reload; new requests wait for as long."""


def desired(ctx: Context) -> Iterable[Resource]:
    php = ctx.release.php
    for name in ("nginx", "logrotate", "libfcgi-bin", "php-redis", "php-amqplib"):
        yield Package(name=name)
    for name in ("fpm", "cli", "mysql", "curl", "mbstring", "apcu"):
        yield Package(name=f"php{php}-{name}")
    yield Account(name=ACCOUNT)
    yield certificate(ctx, "frontend")
    yield from _code(ctx)
    yield from _configuration(ctx)
    yield from _php(ctx)
    yield from _nginx(ctx)


# -- the application -----------------------------------------------------------------------------------------------


def release(ctx: Context) -> tuple[str, Mapping[str, str]]:
    """(hash, files) of the application: what runs, not its documentation or SQL."""
    files = {
        path: content.decode() for path, content in ctx.files("frontend").items() if path.startswith(("src/", "www/"))
    }
    digest = hashlib.sha256()
    for path, content in files.items():
        digest.update(f"{path}\0{len(content)}\0{content}".encode())
    return digest.hexdigest()[:16], files


def _code(ctx: Context) -> Iterator[Resource]:
    name, files = release(ctx)
    target = f"{HOME}/releases/{name}"
    folders = sorted({folder for path in files for folder in _parents(path)})
    for path in ("/opt/omegaup", HOME, f"{HOME}/releases", target, *(f"{target}/{folder}" for folder in folders)):
        yield Directory(path=path)
    for path, content in files.items():
        yield File(path=f"{target}/{path}", content=content, phase=Phase.ACCOUNTS)
    query = Query(
        "frontend",
        f"printf 'release\\t%s\\n' \"$(readlink -- {HOME}/current || true)\"\n"
        f"[ ! -d {target} ] || find {target} -mindepth 1 -printf 'file-%P\\t%y\\n'\n"
        f'for f in {_conf_d(ctx)}/*; do [ -L "$f" ] || [ ! -e "$f" ] || printf \'ini-%s\\ta file\\n\' "${{f##*/}}"; done',
    )
    yield Only(
        query=query, prefix="file-", names=frozenset(f"file-{path}" for path in (*files, *folders)),
        act=f'rm -rf -- {target}/"$NAME"', phase=Phase.ACCOUNTS,
    )  # fmt: skip
    yield Only(
        query=query, prefix="ini-", names=frozenset({"ini-99-fleet.ini"}), phase=Phase.FILES,
        act=f'rm -f -- {_conf_d(ctx)}/"$NAME"',
    )  # fmt: skip
    yield Parameter(
        query=query, name="release", want=target, step=StepClass.WRITE, phase=Phase.FILES, label="frontend: release",
        act=f"""\
find {target} -name '*.php' -print | while read -r file; do
  verdict=$(php{ctx.release.php} -l -- "$file" 2>&1) || {{ printf 'refused by php -l: %s\\n' "$verdict"; exit 1; }}
done
ln -sfn {target} {HOME}/.current && mv -fT {HOME}/.current {HOME}/current
ls -1td {HOME}/releases/*/ | tail -n +{KEPT_RELEASES + 1} | grep -vxF {target}/ | xargs -r rm -rf --""",
    )  # fmt: skip
    yield Link(path=ROOT, target="current/www")


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for depth in range(len(parts)):
        yield "/".join(parts[: depth + 1])


def _quoted(value: str | int | bool) -> str:
    """A PHP literal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _configuration(ctx: Context) -> Iterator[Resource]:
    redis, rabbitmq, mysql = SERVICES["redis"], SERVICES["rabbitmq"], SERVICES["mysql"]
    settings = ctx.settings
    constants: dict[str, str | int | bool] = {
        "REDIS_HOST": "redis",
        "REDIS_PORT": redis.port("cache").number,
        "REDIS_USER": "app",
        "REDIS_PASS": ctx.secret("redis/app"),
        "REDIS_SESSIONS_HOST": "redis",
        "REDIS_SESSIONS_PORT": redis.port("sessions").number,
        "REDIS_SESSIONS_PASS": ctx.secret("redis/app"),
        "OMEGAUP_DB_HOST": f"mysql:{mysql.port('mysql').number}",
        "OMEGAUP_DB_USER": settings.mysql.user,
        "OMEGAUP_DB_PASS": ctx.secret("mysql/app"),
        "OMEGAUP_DB_NAME": settings.mysql.database,
        "OMEGAUP_RABBITMQ_HOST": "rabbitmq",
        "OMEGAUP_RABBITMQ_PORT": rabbitmq.port("amqp").number,
        "OMEGAUP_RABBITMQ_USERNAME": settings.rabbitmq.user,
        "OMEGAUP_RABBITMQ_PASSWORD": ctx.secret("rabbitmq/app"),
        "OMEGAUP_RABBITMQ_VHOST": settings.rabbitmq.vhost,
        "OMEGAUP_GRADER_URL": url("grader"),
        "OMEGAUP_SSL_DIR": SSL_DIR,
        "OMEGAUP_RATE_LIMIT": settings.frontend.rate_limit,
        # A login without a password, to see how sessions are kept. Production has the judge's own.
        "OMEGAUP_REFERENCE_LOGIN": settings.environment == "development",
    }
    autoload = f"{HOME}/releases/{release(ctx)[0]}/src/autoload.php"
    yield Directory(path="/etc/omegaup/frontend", group=ACCOUNT, mode=0o750)
    yield File(
        path=CONFIG,
        content=ctx.render(
            "frontend/config.php.j2", constants={name: _quoted(value) for name, value in constants.items()}
        ),
        group=ACCOUNT, mode=0o640, secret=True,
        # The application itself says whether it can work with it.
        check=f"php{ctx.release.php} -l -- \"$CANDIDATE\" && OMEGAUP_CONFIG=$CANDIDATE php{ctx.release.php} "
        + "-d display_errors=stderr -r " + shlex.quote(f"require '{autoload}'; OmegaUp\\Config::load();"),
    )  # fmt: skip


# -- PHP-FPM -------------------------------------------------------------------------------------------------------


def _conf_d(ctx: Context) -> str:
    return f"/etc/php/{ctx.release.php}/fpm/conf.d"


def request_limits(ctx: Context) -> tuple[int, int, int]:
    """Seconds: PHP's own limit, FPM's, nginx's; each longer than the one before, so that the inner one acts first."""
    terminate = int(ctx.settings.frontend.request_timeout)
    return max(1, terminate * 9 // 10), terminate, terminate + 5


def ini(ctx: Context) -> dict[str, str]:
    """PHP's values, as ini_get prints them."""
    settings = ctx.settings.frontend
    execution, _, _ = request_limits(ctx)
    return {
        "cgi.fix_pathinfo": "0",
        "expose_php": "0",
        "display_errors": "0",
        "display_startup_errors": "0",
        "html_errors": "0",
        "log_errors": "1",
        "error_log": "syslog",
        "syslog.ident": ACCOUNT,
        "error_reporting": "32767",
        "memory_limit": str(settings.memory_limit),
        "post_max_size": str(settings.body_max),
        "upload_max_filesize": str(settings.body_max),
        "max_file_uploads": "20",
        "max_execution_time": str(execution),
        "max_input_time": str(execution),
        "default_charset": "UTF-8",
        "date.timezone": "UTC",
        "allow_url_fopen": "0",
        "allow_url_include": "0",
        "enable_dl": "0",
        "auto_prepend_file": "",
        "auto_append_file": "",
        "user_ini.filename": "",
        "disable_functions": "exec,passthru,shell_exec,system,proc_open,popen,pcntl_exec",
        "opcache.enable": "1",
        "opcache.validate_timestamps": "0",
        "opcache.memory_consumption": "64",
        "opcache.max_accelerated_files": "4000",
        "apc.enabled": "1",
        "mysqli.allow_local_infile": "0",
        "session.auto_start": "0",
        "session.use_strict_mode": "1",
        "session.use_only_cookies": "1",
        "session.cookie_httponly": "1",
        "session.cookie_samesite": "Lax",
        "session.gc_maxlifetime": "86400",
    }


def _php(ctx: Context) -> Iterator[Resource]:
    php, settings = ctx.release.php, ctx.settings
    folder = f"/etc/php/{php}/fpm"
    main, pool, values_file = f"{folder}/php-fpm.conf", f"{folder}/pool.d/omegaup.conf", f"{_conf_d(ctx)}/99-fleet.ini"
    unit = f"php{php}-fpm.service"
    values = ini(ctx)
    yield File(
        path=values_file, content=ctx.render("frontend/99-fleet.ini.j2", values=values),
        check=f"php{php} -n -d display_errors=stderr -r "
        "'exit(parse_ini_file(getenv(\"CANDIDATE\"), false, INI_SCANNER_RAW) === false ? 1 : 0);'",
    )  # fmt: skip
    common = {
        "account": ACCOUNT, "socket": SOCKET, "status_socket": STATUS_SOCKET, "probe_socket": PROBE_SOCKET,
        "status": STATUS, "slowlog": SLOWLOG, "settings": settings.frontend, "backlog": settings.base.somaxconn,
        "terminate": request_limits(ctx)[1],
    }  # fmt: skip
    build, text = _built(ctx, "frontend/omegaup.conf.j2", **common)
    yield File(
        path=pool, content=text,
        check="main=$(mktemp); trap 'rm -f \"$main\"' EXIT\n"
        "printf '[global]\\nerror_log=/dev/null\\ninclude=%s\\n' \"$CANDIDATE\" >\"$main\"\n"
        f'php-fpm{php} -t --fpm-config "$main"',
    )  # fmt: skip
    yield File(
        path=main, content=ctx.render("frontend/php-fpm.conf.j2", php=php, patience=PATIENCE, pool=pool),
        check=f'php-fpm{php} -t --fpm-config "$CANDIDATE"',
    )  # fmt: skip
    yield File(path=f"{folder}/pool.d/www.conf", absent=True)
    yield File(path=PROBE, content=ctx.render("frontend/php-values.php.j2", names=list(values)))
    yield File(
        path="/etc/logrotate.d/fleet-frontend", content=ctx.render("frontend/logrotate.j2", slowlog=SLOWLOG, php=php)
    )
    drop_in = f"/etc/systemd/system/{unit}.d/40-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{unit}.d")
    yield File(
        path=drop_in,
        content=ctx.render(
            "frontend/php-fpm.service.conf.j2", php=php, patience=PATIENCE, nofile=settings.base.service_nofile
        ),
    )
    name, files = release(ctx)
    loaded = (main, pool, values_file, CONFIG, PROBE, *(f"{HOME}/releases/{name}/{path}" for path in files))
    yield Unit(name=unit, rolling=True, restart_files=(drop_in,), reload_files=loaded)
    query = Query("php", _ask_php((*loaded, _conf_d(ctx))), unit)
    words = f"journalctl --no-pager -o cat -n 8 -u {unit}"
    wanted = {"build": build, "files": "loaded", **values}
    for key, value in wanted.items():
        parameter = reloaded(
            query, key, value, unit=unit, seconds=PATIENCE + 10, words=words, loads=(pool,) if key == "build" else ()
        )
        yield parameter


def _ask_php(loaded: tuple[str, ...]) -> str:
    """Shell: what PHP runs with, asked in the pool that is kept for it. Longer than a reload may take."""
    return (
        f"fcgi() {{ SCRIPT_FILENAME=$1 SCRIPT_NAME=$1 QUERY_STRING=${{2:-}} REQUEST_METHOD=GET "
        f"timeout {PATIENCE + 4} cgi-fcgi -bind -connect {PROBE_SOCKET}; }}\n"
        f"values=$(fcgi {PROBE})\nstatus=$(fcgi /fleet/status json)\n"
        "printf '%s\\n' \"$values\" | grep '\t' || true\n"
        "began=$(printf '%s\\n' \"$status\" | sed -n 's/.*\"start time\":\\([0-9]*\\).*/\\1/p')\n"
        '[ -n "$began" ] || { echo "PHP-FPM does not say when it began"; exit 1; }\n' + older("began", loaded)
    )


def _built(ctx: Context, template: str, **values: object) -> tuple[str, str]:
    """(build, text) of a configuration that names its own hash, for the running server to repeat."""
    build = hashlib.sha256(ctx.render(template, build="", **values).encode()).hexdigest()[:16]
    return build, ctx.render(template, build=build, **values)


# -- nginx ---------------------------------------------------------------------------------------------------------


def _nginx(ctx: Context) -> Iterator[Resource]:
    settings = ctx.settings
    # A connection of a client and one to PHP, and the logs.
    nofile = 2 * settings.frontend.worker_connections + 512
    build, text = _built(
        ctx, "frontend/nginx.conf.j2", nofile=nofile, connections=settings.frontend.worker_connections,
        read_timeout=request_limits(ctx)[2], body_max=settings.frontend.body_max, backlog=settings.base.somaxconn,
        root=ROOT, socket=SOCKET, status=STATUS, status_socket=STATUS_SOCKET,
    )  # fmt: skip
    yield File(path=NGINX, content=text, check='nginx -t -q -c "$CANDIDATE"')
    drop_in = "/etc/systemd/system/nginx.service.d/60-fleet.conf"
    yield Directory(path="/etc/systemd/system/nginx.service.d")
    yield File(
        path=drop_in,
        content=ctx.render("frontend/nginx.service.conf.j2", nofile=max(nofile, settings.base.service_nofile)),
    )
    unit = "nginx.service"
    yield Unit(name=unit, rolling=True, restart_files=(drop_in,), reload_files=(NGINX,))
    query = Query("nginx", _ASK_NGINX, unit)
    words = "grep emerg /var/log/nginx/error.log | tail -n 2"
    for key, value in {"build": build, "files": "loaded", "nofile": str(nofile)}.items():
        yield reloaded(query, key, value, unit=unit, seconds=10, words=words, loads=(NGINX,) if key == "build" else ())


_ASK_NGINX = """\
code=0
build=$(curl -sf -m 5 --noproxy '*' http://127.0.0.1/fleet/build) || code=$?
case $code in 0) ;; 22) build=unknown ;; *) echo "http://127.0.0.1/fleet/build: curl ends with $code"; exit 1 ;; esac
printf 'build\\t%s\\n' "$build"
master=$(cat /run/nginx.pid)
began=$(date +%s) nofile=''
uptime=$(cut -d' ' -f1 /proc/uptime)
now=$began
for p in $(cat /proc/$master/task/$master/children); do
  ! tr '\\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q 'shutting down' || continue
  since=$(awk -v now="$now" -v up="$uptime" '{ sub(/^.*\\) /, ""); print now - int(up - $20 / 100) }' "/proc/$p/stat" 2>/dev/null) || continue
  [ "$since" -ge "$began" ] || began=$since
  nofile=$(awk '/^Max open files/ { print $4 }' "/proc/$p/limits")
done
printf 'nofile\\t%s\\n' "$nofile"
""" + older("began", (NGINX,))
