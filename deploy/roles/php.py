"""PHP-FPM of the web hosts: its pools, its values, and what it says it runs with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Only, Package, Phase, Query, Resource, Unit
from deploy.roles.common import confined
from deploy.roles.proven import built, reloaded

ACCOUNT = "omegaup-frontend"
SOCKET = "/run/php/omegaup.sock"
STATUS = "/fleet/fpm"
STATUS_SOCKET = "/run/php/omegaup-status.sock"
PROBE_SOCKET = "/run/php/fleet.sock"
PROBE = "/usr/local/lib/fleet/php-values.php"
SLOWLOG = "/var/log/omegaup-frontend.slow.log"
PATIENCE = 10
"""Seconds that requests in hand have at a reload; new ones wait for as long."""


def request_limits(ctx: Context) -> tuple[int, int, int]:
    """Seconds: PHP's own limit, FPM's, nginx's; each longer than the one before, so that the inner one acts first."""
    terminate = int(ctx.settings.frontend.request_timeout)
    return max(1, terminate * 9 // 10), terminate, terminate + 5


def values(ctx: Context) -> dict[str, str]:
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


def php_fpm(
    ctx: Context, stamped: tuple[str, ...], dated: tuple[str, ...], other: Mapping[str, str] | None = None
) -> Iterator[Resource]:
    """FPM, and other files that it keeps in memory until it is reloaded.

    stamped: known by their hash at the last reload; dated: by their time alone (many, and few change). other:
    what differs from `values`.
    """
    php, settings = ctx.release.php, ctx.settings
    folder, unit = f"/etc/php/{php}/fpm", f"php{php}-fpm.service"
    conf_d, pools = f"{folder}/conf.d", f"{folder}/pool.d"
    main, pool, ini = f"{folder}/php-fpm.conf", f"{pools}/omegaup.conf", f"{conf_d}/99-fleet.ini"
    drop_in = f"/etc/systemd/system/{unit}.d/40-fleet.conf"
    yield Package(name=f"php{php}-fpm", source=f"php{php}")
    yield Package(name="libfcgi-bin")
    wanted = {**values(ctx), **(other or {})}
    yield File(
        path=ini, content=ctx.render("frontend/99-fleet.ini.j2", values=wanted),
        check=f"php{php} -n -d display_errors=stderr -r "
        "'exit(parse_ini_file(getenv(\"CANDIDATE\"), false, INI_SCANNER_NORMAL) === false ? 1 : 0);'",
    )  # fmt: skip
    build, text = built(
        ctx, "frontend/omegaup.conf.j2", account=ACCOUNT, socket=SOCKET, status_socket=STATUS_SOCKET, status=STATUS,
        probe_socket=PROBE_SOCKET, slowlog=SLOWLOG, settings=settings.frontend, backlog=settings.base.somaxconn,
        terminate=request_limits(ctx)[1], probe_terminate=PATIENCE,
    )  # fmt: skip
    yield File(
        path=pool, content=text,
        check="main=$(mktemp)\ntrap 'rm -f -- \"$main\"' EXIT\n"
        "printf '[global]\\nerror_log=/dev/null\\ninclude=%s\\n' \"$CANDIDATE\" >\"$main\"\n"
        f'php-fpm{php} -t --fpm-config "$main"',
    )  # fmt: skip
    yield File(
        path=main, content=ctx.render("frontend/php-fpm.conf.j2", php=php, patience=PATIENCE, pool=pool),
        check=f'php-fpm{php} -t --fpm-config "$CANDIDATE"',
    )  # fmt: skip
    yield File(path=f"{pools}/www.conf", absent=True)
    yield File(path=PROBE, content=ctx.render("frontend/php-values.php.j2", names=list(wanted)))
    yield File(
        path="/etc/logrotate.d/fleet-frontend", content=ctx.render("frontend/logrotate.j2", slowlog=SLOWLOG, php=php)
    )
    yield Directory(path=f"/etc/systemd/system/{unit}.d")
    text = ctx.render(
        "frontend/php-fpm.service.conf.j2", php=php, patience=PATIENCE, nofile=settings.base.service_nofile
    )
    yield File(path=drop_in, content=text)
    yield confined(ctx, unit, "frontend/php-fpm.sandbox.conf.j2")
    # Modules are links there, made by their packages; a file is somebody's own.
    yield Only(
        query=Query(
            "php-ini",
            f"find {conf_d} -maxdepth 1 -type f -printf 'file-%f\\t%s bytes\\n'",
        ),
        prefix="file-", names=frozenset({"file-99-fleet.ini"}), act=f'rm -f -- {conf_d}/"$NAME"', phase=Phase.FILES,
    )  # fmt: skip
    files = (pool, main, ini, PROBE, *stamped)
    yield Unit(name=unit, rolling=True, restart_files=(drop_in,), reload_files=files)
    ask = ctx.render(
        "frontend/ask-php.sh.j2", patience=PATIENCE, probe=PROBE, probe_socket=PROBE_SOCKET,
        files=" ".join((*files, *dated)), values=wanted, agreed=f"as in {ini}", conf_d=conf_d,
    )  # fmt: skip
    yield from reloaded(
        ctx, Query("php", ask, unit), {"build": build, "values": f"as in {ini}", "modules": f"as in {conf_d}"},
        (*files, *dated), unit=unit, seconds=PATIENCE + 10, words=f"journalctl --no-pager -o cat -n 8 -u {unit}",
    )  # fmt: skip
