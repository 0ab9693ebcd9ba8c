"""nginx and PHP-FPM as they run."""

from __future__ import annotations

import json
import re
import time

import pytest
from testinfra.host import Host

from deploy.converge import desired
from deploy.model.catalog import RELEASES
from deploy.model.fleet import Fleet, HostSpec, Live
from deploy.roles import php
from tests.fleet.conftest import connection
from tests.fleet.test_mysql import ask as database
from tests.fleet.test_redis import ask as redis
from tests.fleet.test_redis import info

PHP = RELEASES["12"].php

pytestmark = pytest.mark.service("frontend")


def headers(host: Host, path: str, options: str = "") -> str:
    return str(host.check_output(f"curl -s -m 10 -o /dev/null -D - {options} http://127.0.0.1{path}")).lower()


def test_answers_as_php(host: Host, spec: HostSpec) -> None:
    assert " 200 " in headers(host, "/health/live").splitlines()[0]


def test_says_no_version(host: Host, spec: HostSpec) -> None:
    said = headers(host, "/")
    assert "server: nginx\r" in said + "\r"
    assert "x-powered-by" not in said


@pytest.mark.parametrize("path", ["/.git/config", "/../etc/passwd", "/config.php", "/src/App.php"])
def test_gives_no_source_away(host: Host, spec: HostSpec, path: str) -> None:
    body = host.run(f"curl -s -m 10 --path-as-is http://127.0.0.1{path}").stdout
    assert "<?php" not in body
    assert "root:" not in body


def test_body_limits_agree(host: Host, spec: HostSpec) -> None:
    """nginx's running limit: a body over it is refused before it is read."""
    limit = spec.settings.frontend.body_max
    said = headers(host, "/submit", f"-H 'Content-Length: {limit + 1}' -X POST")
    assert " 413 " in said.splitlines()[0]


def test_pool(host: Host, spec: HostSpec) -> None:
    listing = host.check_output("ps -eo user:32,args")
    workers = [line for line in listing.splitlines() if "php-fpm: pool" in line]
    assert workers
    assert all(line.startswith("omegaup-frontend") for line in workers)
    assert not any("pool www" in line for line in workers)
    assert len(workers) <= spec.settings.frontend.fpm_max_children


def test_certificate_is_the_frontends_alone(host: Host, spec: HostSpec) -> None:
    key = host.file("/etc/omegaup/ssl/frontend.key")
    assert (key.user, key.mode) == ("omegaup-frontend", 0o400)


def fcgi(host: Host, socket: str, script: str, query: str = "") -> str:
    """A request to a pool, as root, past nginx; the answer's body."""
    said = host.check_output(
        f"SCRIPT_FILENAME={script} SCRIPT_NAME={script} QUERY_STRING={query} REQUEST_METHOD=GET "
        f"timeout 20 cgi-fcgi -bind -connect {socket}"
    )
    return str(said).replace("\r", "").partition("\n\n")[2]


def values(host: Host, socket: str) -> dict[str, str]:
    return dict(line.split("\t", 1) for line in fcgi(host, socket, php.PROBE).splitlines() if "\t" in line)


@pytest.mark.parametrize("socket", [php.SOCKET, php.PROBE_SOCKET])
def test_php_values_in_the_running_pools(host: Host, spec: HostSpec, fleet: Fleet, socket: str) -> None:
    """Asked of the pool that serves users as well: it could have values of its own."""
    ctx = desired.context(fleet, spec, Live.first_boot(fleet), "", lambda _: "")
    said = values(host, socket)
    wanted = php.values(ctx)
    assert {name: said.get(name) for name in wanted} == wanted
    assert int(said["memory_limit"]) == spec.settings.frontend.memory_limit
    assert int(said["post_max_size"]) == int(said["upload_max_filesize"]) == spec.settings.frontend.body_max


def dumped(host: Host) -> dict[str, dict[str, str]]:
    """Pool -> name -> value, as FPM reads its files."""
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in host.run(f"php-fpm{PHP} -tt 2>&1").stdout.splitlines():
        text = re.sub(r".*?\bNOTICE[:\]]", "", line).strip()
        if text.startswith("["):
            section = found.setdefault(text.strip("[]"), {})
        elif " = " in text:
            name, value = text.split(" = ", 1)
            section[name] = value
    return found


def test_pool_has_the_sizes_of_the_settings(host: Host, spec: HostSpec) -> None:
    """FPM prints a pool's sizes only of its files; which files it runs with it says by the build that it was given."""
    settings = spec.settings.frontend
    status = json.loads(host.check_output(f"curl -sf -m 10 'http://127.0.0.1{php.STATUS}?json'"))
    assert (status["pool"], status["process manager"]) == ("omegaup", "dynamic")
    assert settings.fpm_min_spare <= status["total processes"] <= settings.fpm_max_children
    files = dumped(host)
    assert set(files) == {"global", "omegaup", "fleet"}
    running = values(host, php.PROBE_SOCKET)
    assert files["fleet"]["env[FLEET_BUILD]"] == running["build"]
    sizes = {
        "pm": "dynamic",
        "pm.max_children": settings.fpm_max_children,
        "pm.start_servers": settings.fpm_start_servers,
        "pm.min_spare_servers": settings.fpm_min_spare,
        "pm.max_spare_servers": settings.fpm_max_spare,
        "pm.max_requests": settings.fpm_max_requests,
        "listen.backlog": spec.settings.base.somaxconn,
        "request_terminate_timeout": f"{int(settings.request_timeout)}s",
    }
    assert {name: files["omegaup"][name] for name in sizes} == {name: str(value) for name, value in sizes.items()}


def test_nginx_has_the_values_of_the_settings(host: Host, spec: HostSpec) -> None:
    """Of the file whose build the running workers name."""
    text = host.check_output("nginx -T 2>/dev/null")
    running = host.check_output("curl -sf -m 10 http://127.0.0.1/fleet/build").strip()
    assert re.search(rf'return 200 "{running}\\n";', text)
    settings = spec.settings.frontend
    reading = int(settings.request_timeout) + 5
    for directive in (
        f"worker_connections {settings.worker_connections}",
        f"client_max_body_size {settings.body_max}",
        "keepalive_timeout 65s",
        "keepalive_requests 1000",
        "client_header_timeout 10s",
        "client_body_timeout 15s",
        "send_timeout 15s",
        "fastcgi_connect_timeout 5s",
        f"fastcgi_read_timeout {reading}s",
        f"fastcgi_send_timeout {reading}s",
        f"worker_shutdown_timeout {reading + 10}s",
        "server_tokens off",
    ):
        found = re.findall(rf"^\s*{directive.split()[0]} (.*);", text, flags=re.M)
        assert found[:1] == [directive.split()[1]], directive
    # At the end of what everybody gets; a location of its own may take less, not more.
    assert re.findall(r"^\s*client_max_body_size (.*);", text, flags=re.M)[1:] == ["1k"]


def test_a_client_keeps_its_connection(host: Host, spec: HostSpec) -> None:
    """Three requests, one connection to nginx."""
    urls = "http://127.0.0.1/health/live " * 3
    made = host.check_output(f"curl -sf -m 10 -w '%{{num_connects}}\\n' {'-o /dev/null ' * 3} {urls}").split()
    assert made == ["1", "0", "0"]


@pytest.mark.parametrize("instance", ["cache", "sessions"])
def test_php_keeps_its_connections_to_redis(host: Host, spec: HostSpec, fleet: Fleet, instance: str) -> None:
    """A connection that an earlier request opened serves a later one, and there are no more of them than processes."""
    members = [connection(member.name) for member in fleet.members("redis")]
    primary = next(member for member in members if info(member, instance)["role"] == "master")
    until = time.monotonic() + 20
    while True:
        host.check_output("curl -s -m 10 -o /dev/null http://127.0.0.1/health/")
        lines = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in redis(primary, instance, "CLIENT LIST")]
        # The application's user has no other clients on this host that speak to both instances.
        ours = [one for one in lines if one.get("user") == "app" and one["addr"].startswith(f"{spec.address}:")]
        if any(int(one["age"]) >= 2 and int(one["idle"]) <= 1 for one in ours):
            break
        assert time.monotonic() < until, f"each request had a connection of its own: {ours}"
        time.sleep(0.5)
    assert len(ours) <= spec.settings.frontend.fpm_max_children


def test_php_reaches_the_database_that_takes_writes(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    """By the application's own configuration, through the name and port of the spec."""
    ask = (
        "require '/opt/omegaup/frontend/current/src/autoload.php'; OmegaUp\\Config::load(); "
        "$row = OmegaUp\\MySQLConnection::getInstance()->select('SELECT @@hostname AS name, @@port AS port')[0]; "
        "echo $row['name'], ' ', $row['port'];"
    )
    primaries = [
        member.name for member in fleet.members("mysql")
        if database(connection(member.name), "SELECT @@GLOBAL.read_only") == "0"
    ]  # fmt: skip
    assert host.check_output(f'php{PHP} -r "{ask}"'.replace("$", "\\$")) == f"{primaries[0]} 3306"


def test_php_speaks_tls_with_the_database(host: Host, spec: HostSpec) -> None:
    """By the application's own configuration, end to end through the proxy: the server says what it is asked with."""
    if not spec.settings.mysql.tls:
        pytest.skip("mysql.tls is off")
    ask = (
        "require '/opt/omegaup/frontend/current/src/autoload.php'; OmegaUp\\Config::load(); "
        "echo OmegaUp\\MySQLConnection::getInstance()->select('SHOW STATUS LIKE \"Ssl_cipher\"')[0]['Value'];"
    )
    said = host.check_output("php%s -r %s", PHP, ask)
    assert said.startswith(("TLS_", "ECDHE-")), said
