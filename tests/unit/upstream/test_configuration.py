"""What the real judge's programs read, against what is known of them.

The tables below are from the sources of quark v1.9.70 (common/context.go), gitserver v1.9.17
(cmd/omegaup-gitserver/config.go), omegaup/omegaup (frontend/server/config.default.php) and omegaup/puppet's units: not
from this project. Keys of Go's are compared without case, as Go reads them.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.model.catalog import Tls
from deploy.model.profiles import UPSTREAM
from deploy.model.resources import Account, Certificate, Directory, File, Link, Parameter, Phase, Unit
from deploy.roles import php, upstream_frontend
from deploy.roles import upstream_backend as backend
from tests.unit.upstream.fleets import FLEET, content, context, fleet, resources, secret, state

ANY: Any = object()

# quark's one schema, shared by its three programs; ANY where the default is not of interest here.
QUARK: Mapping[str, Any] = {
    "Db.Driver": "sqlite3",
    "Db.DataSourceName": "./omegaup.db",
    "Logging.Level": "info",
    "Logging.JSON": False,
    "Grader.Port": 11302,
    "Grader.RuntimePath": "/var/lib/omegaup/",
    "Grader.V1.Port": 21680,
    "Grader.V1.RuntimePath": "/var/lib/omegaup/",
    "Grader.V1.RuntimeGradePath": "/var/lib/omegaup/grade",
    "Grader.V1.SendBroadcast": True,
    "Grader.V1.UpdateDatabase": True,
    "Grader.Ephemeral.Port": 36663,
    "Grader.Ephemeral.Proxied": True,
    "Grader.ChannelLength": 1024,
    "Grader.MaxGradeRetries": 3,
    "Grader.BroadcasterURL": "https://omegaup.com:32672/broadcast/",
    "Grader.GitserverURL": "https://gitserver.omegaup.com/",
    "Grader.GitserverAuthorization": "",
    "Grader.UseS3": False,
    "Broadcaster.Port": 32672,
    "Broadcaster.EventsPort": 22291,
    "Broadcaster.Proxied": True,
    "Broadcaster.FrontendURL": "https://omegaup.com",
    "Broadcaster.ScoreboardUpdateSecret": "secret",
    "Broadcaster.TLS.CertFile": "/etc/omegaup/broadcaster/certificate.pem",
    "Broadcaster.TLS.KeyFile": "/etc/omegaup/broadcaster/key.pem",
    "Runner.GraderURL": "https://omegaup.com:11302",
    "Runner.RuntimePath": "/var/lib/omegaup/runner",
    "Runner.OmegajailRoot": "/var/lib/omegajail",
    "Runner.PreserveFiles": False,
    "Runner.Hostname": "",
    "Runner.PublicIP": "",
    "TLS.CertFile": "/etc/omegaup/grader/certificate.pem",
    "TLS.KeyFile": "/etc/omegaup/grader/key.pem",
    "Metrics.Port": 6060,
}
# This one refuses to start over a key that it does not know.
GITSERVER: Mapping[str, Any] = {
    "Db.Driver": "sqlite3",
    "Db.DataSourceName": "./omegaup.db",
    "Logging.File": ANY,
    "Logging.Level": "info",
    "Logging.JSON": False,
    "Gitserver.RootPath": "/var/lib/omegaup/problems.git",
    "Gitserver.Port": 33861,
    "Gitserver.PprofPort": 33862,
    "Gitserver.PublicKey": "gKEg5JlIOA1BsIxETZYhjd+ZGchY/rZeQM0GheAWvXw=",
    "Gitserver.SecretToken": "",
    "Gitserver.GraderSecretToken": "",
    "Gitserver.AllowSecretTokenAuthentication": False,
    "Gitserver.AllowDirectPushToMaster": False,
    "Gitserver.LibinteractivePath": "/usr/share/java/libinteractive.jar",
    "Gitserver.FrontendAuthorizationProblemRequestURL": "https://omegaup.com/api/authorization/problem/",
    "Gitserver.UseS3": False,
}
PLACES = {"gitserver": "app1", "grader": "app1", "broadcaster": "app1", "runner": "run1"}

# What must not stay as upstream has it.
UNSAFE = {
    "OMEGAUP_MD5_SALT": "omegaup",
    "OMEGAUP_EXPERIMENT_SECRET": "omegaup",
    "OMEGAUP_COURSE_CLONE_SECRET_KEY": None,
    "OMEGAUP_GRADER_SECRET": "secret",
    "OMEGAUP_GITSERVER_SECRET_KEY": "CHANGE_ME",
    "REDIS_PASS": "redis",
    "OMEGAUP_RABBITMQ_USERNAME": "xxxxx",
    "OMEGAUP_RABBITMQ_PASSWORD": "xxxxx",
    "OMEGAUP_DB_PASS": "",
}
# frontend/server/bootstrap.php, getCriticalSecretNames.
CRITICAL = (
    "OMEGAUP_DB_USER", "OMEGAUP_DB_PASS", "OMEGAUP_DB_HOST", "OMEGAUP_DB_NAME", "OMEGAUP_EXPERIMENT_SECRET",
    "OMEGAUP_GITSERVER_SECRET_KEY", "OMEGAUP_GITSERVER_PUBLIC_KEY", "OMEGAUP_GITSERVER_SECRET_TOKEN",
    "OMEGAUP_GRADER_SECRET", "OMEGAUP_COURSE_CLONE_SECRET_KEY", "OMEGAUP_RABBITMQ_USERNAME",
    "OMEGAUP_RABBITMQ_PASSWORD", "OMEGAUP_FB_APPID", "OMEGAUP_FB_SECRET", "OMEGAUP_GOOGLE_SECRET",
    "OMEGAUP_GOOGLE_CLIENTID", "OMEGAUP_GITHUB_CLIENT_ID", "OMEGAUP_GITHUB_CLIENT_SECRET", "OMEGAUP_GA_ID",
    "OMEGAUP_RECAPTCHA_SECRET",
)  # fmt: skip
PHP = shutil.which("php")
needs_php = pytest.mark.skipif(PHP is None, reason="PHP is not installed here")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def config(service: str) -> dict[str, Any]:
    return flat(json.loads(content(PLACES[service], f"/etc/omegaup/{service}/config.json")))


@pytest.mark.parametrize("service", PLACES)
def test_no_key_that_the_program_does_not_know(service: str) -> None:
    known = GITSERVER if service == "gitserver" else QUARK
    for key, value in config(service).items():
        assert key in known
        assert known[key] is ANY or isinstance(value, type(known[key]))


@pytest.mark.parametrize("service", PLACES)
def test_what_has_a_fixed_place_upstream_is_there(service: str) -> None:
    """Ports, paths and switches are upstream's own, but for those that are wrong here."""
    known = GITSERVER if service == "gitserver" else QUARK
    others = {
        "Db.Driver", "Db.DataSourceName", "Metrics.Port", "TLS.CertFile", "TLS.KeyFile", "Grader.BroadcasterURL",
        "Grader.GitserverURL", "Grader.GitserverAuthorization", "Broadcaster.FrontendURL", "Runner.GraderURL",
        "Broadcaster.ScoreboardUpdateSecret", "Runner.Hostname", "Runner.PublicIP", "Gitserver.PprofPort",
        "Gitserver.PublicKey", "Gitserver.SecretToken", "Gitserver.GraderSecretToken",
        "Gitserver.AllowSecretTokenAuthentication", "Gitserver.AllowDirectPushToMaster",
        "Gitserver.FrontendAuthorizationProblemRequestURL",
    }  # fmt: skip
    for key, value in config(service).items():
        if key in others:
            assert value != known[key] or key == "Metrics.Port" or service == "grader"
        else:
            assert value == known[key], key


def test_the_grader() -> None:
    found = config("grader")
    assert found["Db.Driver"] == "mysql"
    # parseTime is required: it reads a time.
    assert (
        found["Db.DataSourceName"] == f"grader:{secret('mysql/grader')}@tcp(mysql:3306)/omegaup?parseTime=true&tls=true"
    )
    assert found["Grader.BroadcasterURL"] == "https://broadcaster:32672/broadcast/"
    assert found["Grader.GitserverURL"] == "http://gitserver:33861/"
    assert found["TLS.CertFile"] == "/etc/omegaup/grader/certificate.pem"


def test_secrets_that_two_sides_must_share() -> None:
    grader, broadcaster, gitserver = config("grader"), config("broadcaster"), config("gitserver")
    php = upstream_frontend.constants(context(FLEET, "web1"))
    assert broadcaster["Broadcaster.ScoreboardUpdateSecret"] == php["OMEGAUP_GRADER_SECRET"]
    assert gitserver["Gitserver.SecretToken"] == php["OMEGAUP_GITSERVER_SECRET_TOKEN"]
    scheme, token, name = grader["Grader.GitserverAuthorization"].split()
    assert (scheme, token, name) == ("OmegaUpSharedSecret", gitserver["Gitserver.GraderSecretToken"], "omegaup:grader")
    assert gitserver["Gitserver.AllowSecretTokenAuthentication"] is True
    assert gitserver["Gitserver.GraderSecretToken"] != gitserver["Gitserver.SecretToken"]
    # The published development key is never the one.
    public = base64.b64decode(gitserver["Gitserver.PublicKey"])
    assert gitserver["Gitserver.PublicKey"] != GITSERVER["Gitserver.PublicKey"]
    assert php["OMEGAUP_GITSERVER_PUBLIC_KEY"] == gitserver["Gitserver.PublicKey"]
    pair = base64.b64decode(str(php["OMEGAUP_GITSERVER_SECRET_KEY"]))
    assert (len(pair), pair[32:]) == (64, public)
    # Of PASETO's length, and the same by PHP's base64_decode and by the library's own alphabet.
    clone = str(php["OMEGAUP_COURSE_CLONE_SECRET_KEY"])
    assert len(base64.b64decode(clone + "=")) == 32
    assert clone.isalnum()


def test_the_gitserver_insists_on_tls_to_the_database() -> None:
    dsn = f"gitserver:{secret('mysql/gitserver')}@tcp(mysql:3306)/omegaup"
    assert config("gitserver")["Db.DataSourceName"] == f"{dsn}?tls=true"


def test_the_runner() -> None:
    found = config("runner")
    assert found["Runner.GraderURL"] == "https://grader:11302"
    assert found["Runner.Hostname"] == "run1"
    # Without it the grader does not count it (OmegaUp-Runner-PublicIP).
    assert found["Runner.PublicIP"] == FLEET.host("run1").address
    assert found["TLS.CertFile"] == "/etc/omegaup/runner/certificate.pem"


def test_ports_on_one_host_differ() -> None:
    """Two of quark's on one host collide on 6060: the second goes on without figures."""
    numbers = [config(service)["Metrics.Port"] for service in ("grader", "broadcaster", "runner")]
    assert len(set(numbers)) == 3
    for service in ("grader", "broadcaster", "runner"):
        assert config(service)["Metrics.Port"] == UPSTREAM.port(service, "metrics")


@pytest.mark.parametrize("service", ["grader", "broadcaster", "runner", "frontend"])
def test_certificate_bundles(service: str) -> None:
    host = {**PLACES, "frontend": "web1"}[service]
    found = state(host)
    for name in ("certificate.pem", "key.pem"):
        link = found[f"link:/etc/omegaup/{service}/{name}"]
        assert isinstance(link, Link)
        assert link.target == f"current/{name}"
    pair = found[f"certificate:/etc/omegaup/ssl/{service}.crt"]
    assert isinstance(pair, Certificate)
    # SAN is what Go and PHP look at; the grader shows one certificate as server and as client.
    assert {host, "localhost"} <= set(pair.dns_names)
    if service in {"grader", "broadcaster"}:
        assert service in pair.dns_names
        assert (pair.server_auth, pair.client_auth) == (True, True)
    assert pair.owner == (php.ACCOUNT if service == "frontend" else "omegaup")
    made = found[f"certificate bundle: {service}"]
    assert isinstance(made, Parameter)
    assert set(made.loads) == {pair.certificate_path, pair.key_path, "/etc/omegaup/ssl/ca.crt"}


def test_every_name_in_an_address_is_in_the_certificate_behind_it() -> None:
    for address, service in (
        (config("grader")["Grader.BroadcasterURL"], "broadcaster"),
        (config("runner")["Runner.GraderURL"], "grader"),
        (upstream_frontend.constants(context(FLEET, "web1"))["OMEGAUP_GRADER_URL"], "grader"),
    ):
        name = re.match(r"https://([^:/]+):", str(address))
        pair = state("app1")[f"certificate:/etc/omegaup/ssl/{service}.crt"]
        assert name
        assert isinstance(pair, Certificate)
        assert name[1] in pair.dns_names


def test_a_new_pair_and_a_new_release_are_owed_a_restart() -> None:
    """The programs read everything once. There is no reload: SIGHUP ends them."""
    for service, host in PLACES.items():
        unit = state(host)[f"unit:omegaup-{service}.service"]
        assert isinstance(unit, Unit)
        assert unit.rolling
        assert unit.reload_files == ()
        wanted = {f"/etc/omegaup/{service}/config.json", f"/etc/systemd/system/omegaup-{service}.service"}
        if service != "gitserver":
            wanted |= set(backend.pair(service))
        assert wanted < set(unit.restart_files)
        assert any(path.endswith("/release") for path in unit.restart_files)


@pytest.mark.parametrize("service", PLACES)
def test_units(service: str) -> None:
    text = content(PLACES[service], f"/etc/systemd/system/omegaup-{service}.service")
    lines = text.splitlines()
    assert "ExecReload" not in "".join(line for line in lines if not line.startswith("#"))
    for line in ("Type=notify", "User=omegaup", "Group=omegaup", "WorkingDirectory=/var/lib/omegaup", "Restart=always"):
        assert line in lines
    start = next(line for line in lines if line.startswith("ExecStart="))
    assert start.endswith(f"/usr/bin/omegaup-{service} -config /etc/omegaup/{service}/config.json")
    assert "-insecure" not in text
    if service == "grader":
        assert "Requires=omegaup-gitserver.service" in lines
    if service == "runner":
        # omegajail: control groups below this very unit, namespaces of its own.
        assert start.startswith("ExecStart=/var/lib/omegajail/bin/omegajail-cgroups-wrapper /usr/bin/")
        assert "Delegate=yes" in lines
        assert "NoNewPrivileges=true" not in lines


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize(
    ("host", "name"),
    [
        *((host, f"omegaup-{service}.service") for service, host in PLACES.items()),
        ("app1", "omegaup-worker@.service"), ("app1", "omegaup-cron@.service"),
        ("app1", "omegaup-cron@update_ranks.timer"),
    ],
)  # fmt: skip
def test_systemd_reads_the_units(tmp_path: Path, host: str, name: str) -> None:
    text = content(host, f"/etc/systemd/system/{name}")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    # The programs themselves are not here; every other word is looked at.
    text = re.sub(r"(?<=^ExecStart=)\S+", str(program), text, flags=re.M)
    folder = tmp_path / "units"
    folder.mkdir()
    (folder / name).write_text(text)
    for template in ("omegaup-cron@.service",):
        if name.endswith(".timer"):
            other = content(host, f"/etc/systemd/system/{template}")
            (folder / template).write_text(re.sub(r"(?<=^ExecStart=)\S+", str(program), other, flags=re.M))
    for missing in ("haproxy.service", "omegaup-gitserver.service"):
        if not (folder / missing).exists():
            (folder / missing).write_text(f"[Service]\nExecStart={program}\n")
    asked = name.replace("@.", "@x.")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"{folder}/{asked}"], text=True, capture_output=True, check=False,
        env={"SYSTEMD_UNIT_PATH": f"{folder}:/lib/systemd/system", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    said = [line for line in (done.stdout + done.stderr).splitlines() if "omegaup-" in line]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr


def test_without_a_sandbox_nothing_of_it_is_needed() -> None:
    found = resources(fleet(runner={"judge": "noop"}), "run1")
    unit = found["file:/etc/systemd/system/omegaup-runner.service"]
    assert isinstance(unit, File)
    assert "-config /etc/omegaup/runner/config.json -noop-sandbox\n" in unit.content
    assert not [key for key in found if "omegajail" in key]


def test_state_is_the_services_own() -> None:
    for host, names in (
        ("app1", ("input", "cache", "grade", "ephemeral", "submissions", "problems.git")), ("run1", ("runner",)),
    ):  # fmt: skip
        account = state(host)["account:omegaup"]
        assert isinstance(account, Account)
        assert account.home == "/var/lib/omegaup"
        for name in names:
            folder = state(host)[f"directory:/var/lib/omegaup/{name}"]
            assert isinstance(folder, Directory)
            assert (folder.owner, folder.mode) == ("omegaup", 0o750)


def test_secrets_are_in_files_that_plans_do_not_show() -> None:
    secrets = {secret(name) for name in ("mysql/app", "mysql/grader", "mysql/worker", "upstream/grader", "rabbitmq/app",
                                         "upstream/gitserver", "upstream/gitserver-grader", "redis/app")}  # fmt: skip
    for host in ("app1", "web1", "db1", "run1"):
        for item in state(host).values():
            if isinstance(item, File) and any(one in item.content for one in secrets):
                assert item.secret, item.path
                assert item.mode & 0o007 == 0, item.path
            if isinstance(item, Parameter):
                assert not any(one in item.query.script for one in secrets), item.key


def test_tls_in_the_catalog_is_what_the_programs_do() -> None:
    mutual = {(s.name, p.number) for s in UPSTREAM.services for p in s.ports if p.tls is Tls.MUTUAL}
    assert {("grader", 21680), ("grader", 11302), ("broadcaster", 32672)} == {
        one for one in mutual if one[0] in {*PLACES, "frontend", "worker", "mysql"}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("server", "port", "clients"),
    [
        ("grader", "https", {"web1", "web2", "mon1"}),
        ("grader", "runners", {"run1"}),
        ("grader", "ephemeral", {"web1", "web2"}),
        ("broadcaster", "events", {"web1", "web2"}),
        ("broadcaster", "https", set()),
        ("gitserver", "http", {"web1", "web2", "mon1"}),
        ("grader", "metrics", set()),
        ("mysql", "mysql", {"web1", "web2", "app1", "mon1"}),
    ],
)
def test_firewall(server: str, port: str, clients: set[str]) -> None:
    """A runner reaches 11302 and nothing else: its certificate would be taken everywhere (no roles upstream)."""
    host = FLEET.members(server)[0]
    service = UPSTREAM.service(server)
    found = FLEET.sources(service, service.port(port), host)
    assert found is not None
    assert {one.name for one in FLEET.hosts if one.address in found} == clients
    rules = content(host.name, "/etc/nftables.conf")
    number = service.port(port).number
    assert (f"dport {number} accept" in rules) == bool(clients)


# -- PHP ---------------------------------------------------------------------------------------------------------------


@needs_php
def test_php_loads_the_constants(tmp_path: Path) -> None:
    """By PHP itself, with upstream's own way of defaults behind it (try_define)."""
    file = tmp_path / "config.php"
    file.write_text(content("web1", upstream_frontend.CONFIG))
    defaults = {**UNSAFE, "OMEGAUP_GRADER_URL": "https://localhost:21680", "OMEGAUP_LOCKDOWN_DOMAIN": "localhost"}
    code = (
        f"require '{file}';"
        "function try_define($name, $value) { if (!defined($name)) define($name, $value); }"
        f"foreach (json_decode('{json.dumps(defaults)}', true) as $name => $value) try_define($name, $value);"
        "echo json_encode(get_defined_constants(true)['user']);"
    )
    done = subprocess.run(
        ["php", "-d", "display_errors=stderr", "-d", "error_reporting=-1", "-r", code], text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["OMEGAUP_DB_HOST"] == "mysql:3306"
    assert found["OMEGAUP_DB_PASS"] == secret("mysql/app")
    assert found["OMEGAUP_GRADER_URL"] == "https://grader:21680"
    assert found["OMEGAUP_GITSERVER_URL"] == "http://gitserver:33861"
    assert found["OMEGAUP_CACHE_IMPLEMENTATION"] == "redis"
    assert (found["REDIS_HOST"], found["REDIS_PORT"]) == ("redis", 6379)
    assert (found["OMEGAUP_RABBITMQ_HOST"], found["OMEGAUP_RABBITMQ_PORT"]) == ("rabbitmq", 5672)
    assert found["OMEGAUP_URL"] == "https://judge.example"
    assert found["OMEGAUP_CSRF_HOSTS"] == []
    assert found["OMEGAUP_ENVIRONMENT"] == "production"
    assert found["TEMPLATE_CACHE_DIR"] == "/var/lib/omegaup/templates"
    assert found["OMEGAUP_LOCKDOWN_DOMAIN"] == "localhost"
    for name, value in UNSAFE.items():
        assert found[name] != value, name
    # bootstrap.php's own judgement in production: else every page is a 500.
    for name in CRITICAL:
        assert isinstance(found.get(name), str), name
        assert found[name] not in {"CHANGE_ME", "xxxxx", ""}, name


@needs_php
def test_the_files_own_checker(tmp_path: Path) -> None:
    item = state("web1")[f"file:{upstream_frontend.CONFIG}"]
    assert isinstance(item, File)
    check = item.check.replace("php8.2", "php")

    def verdict(text: str) -> subprocess.CompletedProcess[str]:
        candidate = tmp_path / "candidate"
        candidate.write_text(text)
        return subprocess.run(
            ["sh", "-euc", check], text=True, capture_output=True, check=False,
            env={"CANDIDATE": str(candidate), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    assert verdict(item.content).returncode == 0, verdict(item.content).stderr
    assert "is not defined" in verdict("<?php\n").stderr
    assert "it prints something" in verdict(item.content + "?>\nx").stderr
    assert verdict(item.content.replace("define(", "define", 1)).returncode != 0


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=4).map(tuple),
)


@needs_php
@given(VALUES)
def test_php_reads_back_every_value(value: upstream_frontend.Value) -> None:
    code = f"echo json_encode({upstream_frontend.literal(value)});"
    read = subprocess.run(["php", "-r", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(read) == (list(value) if isinstance(value, tuple) else value)


def test_the_inventorys_constants_are_weaker_than_ours() -> None:
    of = fleet(upstream={**FLEET.hosts[0].settings.upstream.model_dump(), "php_constants": {
        "OMEGAUP_GA_TRACK": True, "OMEGAUP_GA_ID": "G-1", "REDIS_PASS": "mine"}})  # fmt: skip
    found = upstream_frontend.constants(context(of, "web1"))
    assert found["OMEGAUP_GA_TRACK"] is True
    assert found["OMEGAUP_GA_ID"] == "G-1"
    assert found["OMEGAUP_FB_APPID"] == "none"
    assert found["REDIS_PASS"] == secret("redis/app")


def test_php_has_what_the_site_needs() -> None:
    """composer.json and Dockerfile.frontend; sockets, for amqplib, is in the common package."""
    packages = {key.removeprefix("package:") for key in state("web1") if key.startswith("package:")}
    assert {f"php8.2-{name}" for name in ("fpm", "apcu", "curl", "gmp", "mbstring", "mysql", "xml", "zip")} <= packages
    assert {"php-redis", "default-jre-headless"} <= packages
    ini = content("web1", "/etc/php/8.2/fpm/conf.d/99-fleet.ini")
    assert 'disable_functions = ""' in ini


def test_the_site_is_where_it_must_be() -> None:
    link = state("web1")["link:/opt/omegaup"]
    assert isinstance(link, Link)
    assert link.target == "/opt/omegaup-releases/frontend/current"


def test_nothing_is_switched_before_it_is_unpacked_everywhere() -> None:
    for host in ("app1", "run1", "web1", "web2", "db1"):
        for key, item in state(host).items():
            if key.endswith(": unpacked"):
                assert item.order is Phase.ACCOUNTS
            elif key.startswith("release ") and key.endswith(": in use"):
                assert item.order is Phase.FILES


# -- nginx -------------------------------------------------------------------------------------------------------------


def test_nginx_leads_where_the_programs_listen() -> None:
    text = content("web1", "/etc/nginx/nginx.conf")
    assert "proxy_pass http://broadcaster:22291/;" in text
    assert "proxy_pass http://grader:36663;" in text
    assert "root /opt/omegaup/frontend/www;" in text
    assert "include /opt/omegaup/frontend/server/nginx.rewrites;" in text
    # The broadcaster pings every 30 s.
    assert text.count("proxy_read_timeout 90s;") == 2
    unit = state("web1")["unit:nginx.service"]
    assert isinstance(unit, Unit)
    assert upstream_frontend.REWRITES in unit.reload_files
