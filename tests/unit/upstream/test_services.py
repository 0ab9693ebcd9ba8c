"""What the upstream profile changes in the services that both profiles have; and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.converge.desired import ROOT, secret_specs
from deploy.converge.inventory import folder, load
from deploy.errors import FleetError, FleetErrors
from deploy.model import checks
from deploy.model.catalog import ANYONE, CATALOG, SSL_DIR, Tls
from deploy.model.fleet import HostInput, build
from deploy.model.profiles import PROFILES, REFERENCE, UPSTREAM
from deploy.model.resources import File, Parameter
from deploy.model.scrapes import jobs
from deploy.procedures import db, queues
from deploy.roles import door, rabbitmq_topology, redis, upstream_mysql
from deploy.roles.common import CRL_FILE
from tests.unit.roles.test_redis_transport import issue
from tests.unit.upstream.fleets import FLEET, GROUPS, content, context, fleet, resources, secret, state
from tests.unit.upstream.fleets import UPSTREAM as SETTINGS

# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(words: str, groups: Any = GROUPS, **data: Any) -> None:
    with pytest.raises(FleetErrors) as found:
        checks.check(fleet(groups, **data))
    assert any(words in one.message() for one in found.value.errors), found.value


def test_the_fleet_of_these_tests_is_fit() -> None:
    checks.check(FLEET)


@pytest.mark.parametrize(
    "name", ["backend", "runner", "gitserver", "libinteractive", "frontend", "python", "omegajail"]
)
def test_a_release_that_is_not_named(name: str) -> None:
    refused(
        f"upstream.{name}: found no release", upstream={key: value for key, value in SETTINGS.items() if key != name}
    )


def test_without_a_sandbox_there_need_be_no_omegajail() -> None:
    rest = {key: value for key, value in SETTINGS.items() if key != "omegajail"}
    checks.check(fleet(runner={"judge": "noop"}, upstream=rest))


@pytest.mark.parametrize("service", checks.ALONE)
def test_a_second_of_what_there_is_one(service: str) -> None:
    refused(f"service {service}: found 2 hosts", {**GROUPS, "more": frozenset({service})})


def test_a_cache_that_evicts_what_has_no_end() -> None:
    refused("redis.maxmemory_policy: found 'allkeys-lru', expected 'volatile-lru'", redis={})


def test_a_site_without_a_name() -> None:
    refused("upstream.url", upstream={**SETTINGS, "url": "http://localhost"})


def test_half_a_profile() -> None:
    hosts = {
        name: HostInput(frozenset({"redis"}), {"ssh_hostname": f"10.0.0.{number}", "profile": profile})
        for number, (name, profile) in enumerate((("a", "reference"), ("b", "upstream")), 1)
    }
    with pytest.raises(FleetErrors, match="b: profile: found another value than on a"):
        checks.check(build("test", hosts))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"profile": "downstream"}, "profile: found 'downstream'"),
        ({"upstream": {"backend": {"source": "x.tar", "sha256": "12"}}}, "upstream.backend.sha256"),
        ({"upstream": {"backend": {"source": "ftp://h/x", "sha256": "0" * 64}}}, "upstream.backend.source"),
        ({"upstream": {"backend": {"source": "https://me:pw@h/x", "sha256": "0" * 64}}}, "upstream.backend.source"),
        ({"upstream": {"backend": {"source": "x y'", "sha256": "0" * 64}}}, "upstream.backend.source"),
        ({"upstream": {"migrations_read": "yes"}}, "upstream.migrations_read"),
        ({"upstream": {"php_constants": {"lower": 1}}}, "upstream.php_constants"),
        ({"upstream": {"releases_kept": 1}}, "upstream.releases_kept"),
        ({"upstream": {"frontent": None}}, "upstream.frontent: found an unknown setting"),
    ],
)
def test_settings_that_are_wrong(data: dict[str, Any], words: str) -> None:
    with pytest.raises(FleetErrors) as found:
        build("test", {"a": HostInput(frozenset(), {"ssh_hostname": "10.0.0.1", **data})})
    assert any(words in one.message() for one in found.value.errors), found.value


@given(st.text(max_size=40))
def test_a_source_cannot_end_the_text_that_it_is_put_into(text: str) -> None:
    """It stands in curl's configuration and in what the shell prints: neither quotes nor blanks nor backslashes."""
    try:
        built = build("t", {"a": HostInput(frozenset(), {"ssh_hostname": "10.0.0.1", "upstream": {
            "backend": {"source": text, "sha256": "0" * 64}}})})  # fmt: skip
    except FleetErrors:
        return
    one = built.hosts[0].settings.upstream.backend
    assert one is not None
    assert not re.search(r"[\s\"'\\@$`]", one.source)


def test_commands_of_the_other_profile_say_so() -> None:
    with pytest.raises(FleetError, match="database: found one server without replicas"):
        db.switchover("upstream", None)
    with pytest.raises(FleetError, match="queue: found profile upstream"):
        queues.counts("upstream")


# -- profiles ----------------------------------------------------------------------------------------------------------


def test_the_reference_profile_is_the_catalog() -> None:
    assert REFERENCE.services is CATALOG
    assert load(folder("production"))[1].profile is REFERENCE


def test_profiles_have_the_same_services_in_the_same_order() -> None:
    """Groups, order and settings are the same; so an inventory's shape does not depend on the profile."""
    for profile in PROFILES.values():
        assert [service.name for service in profile.services] == [service.name for service in CATALOG]
        assert {service.name for service in profile.services if service.optional} == {
            service.name for service in CATALOG if service.optional
        }


def test_ports_of_a_host_never_collide() -> None:
    numbers = [port.number for service in UPSTREAM.services for port in service.ports]
    assert len(set(numbers)) == len(numbers)


def test_each_profile_has_secrets_of_its_own() -> None:
    ours, theirs = secret_specs(UPSTREAM), secret_specs()
    assert {"upstream/grader", "upstream/gitserver", "mysql/gitserver"} <= set(ours) - set(theirs)
    assert "mysql/replica" in set(theirs) - set(ours)


def test_the_example_is_complete() -> None:
    of = load(folder("upstream"))[1]
    assert of.profile is UPSTREAM
    for host in of.hosts:
        resources(of, host.name)
    assert {host.name: host.settings.proxy.idle_timeout for host in of.hosts}["web1"] == 604800


def test_the_example_holds_nobodys_files() -> None:
    """No sha256 of it could be taken for one that somebody has checked."""
    settings = load(folder("upstream"))[1].hosts[0].settings.upstream
    for name in ("backend", "runner", "gitserver", "libinteractive", "frontend", "python"):
        one = getattr(settings, name)
        assert len(set(one.sha256)) == 1
        assert one.source.startswith(("https://releases.example/", "releases/"))


# -- Redis, RabbitMQ, HAProxy ------------------------------------------------------------------------------------------


def test_the_site_logs_in_without_a_name() -> None:
    ctx = context(FLEET, "data1")
    assert redis.acl(ctx, "cache")["default"].startswith("on #")
    assert redis.acl(ctx, "sessions")["default"] == "off resetchannels -@all"


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="Redis is not installed here")
def test_what_the_site_may_do_in_redis(tmp_path: Path) -> None:
    """The commands of Cache.php and of the editorial jobs, at a real server with the rendered users."""
    rules = redis.acl(context(FLEET, "data1"), "cache")
    (tmp_path / "users.acl").write_text("".join(f"user {name} {of}\n" for name, of in rules.items()))
    socket = tmp_path / "redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--aclfile", str(tmp_path / "users.acl"),
         "--dir", str(tmp_path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def say(*words: str, password: str = secret("redis/app")) -> str:
        done = subprocess.run(
            ["redis-cli", "-s", str(socket), "--no-auth-warning", *words], text=True, capture_output=True, check=False,
            env={"REDISCLI_AUTH": password, "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        return (done.stdout + done.stderr).strip()

    try:
        for _ in range(100):
            if socket.exists():
                break
            time.sleep(0.1)
        assert say("PING") == "PONG"
        assert "WRONGPASS" in say("PING", password="wrong")
        assert say("SET", "0school-rank1-100", "x", "EX", "3600") == "OK"
        assert say("GET", "0school-rank1-100") == "x"
        assert say("INCR", "vschool-rank") == "1"
        assert say("SET", "omegaup-cache-lock-a", "t", "NX", "PX", "30000") == "OK"
        assert say("EVAL", "return redis.call('del', KEYS[1])", "1", "omegaup-cache-lock-a") == "1"
        assert say("LPUSH", "editorial_jobs_user", "{}") == "1"
        assert say("HSET", "job:1", "status", "queued") == "1"
        assert say("EXPIRE", "job:1", "60") == "1"
        for words in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("ACL", "LIST"), ("SHUTDOWN",)):
            assert "NOPERM" in say(*words), words
    finally:
        server.terminate()
        server.wait(20)


def test_the_queue_is_what_its_consumer_declares() -> None:
    """rabbitmq_client.py: a direct durable exchange `certificates`, a durable queue `contest`, a binding."""
    items = {item.key: item for item in rabbitmq_topology.desired(context(FLEET, "data1"))}
    assert "rabbitmq:exchange certificates" in items
    assert "rabbitmq:binding certificates/q/contest/ContestQueue" in items
    assert not [key for key in items if "SubmissionQueue" in key]
    declared = items["rabbitmq:queue contest"]
    assert isinstance(declared, Parameter)
    # Without arguments: those that the consumer does not give would be refused when it declares the queue (406).
    assert '"arguments": {}' in declared.act
    assert declared.want == "quorum, durable"
    dead = items["rabbitmq:queue contest.dead"]
    assert isinstance(dead, Parameter)
    assert '"x-queue-type": "quorum"' in dead.act
    assert "rabbitmq:binding dead-letters/q/contest.dead/ContestQueue" in items


def test_what_the_site_and_its_consumer_may_do_in_rabbitmq() -> None:
    configure, write, read = rabbitmq_topology.users(context(FLEET, "data1"))["omegaup"].permissions

    def may(pattern: str, name: str) -> bool:
        return bool(re.search(pattern, name))

    # rabbitmq.com/docs/access-control: declaring is configure; binding is write on the queue, read on the exchange.
    assert may(configure, "certificates")
    assert may(configure, "contest")
    assert not may(configure, "other")
    assert may(write, "certificates")
    assert may(write, "contest")
    assert may(read, "contest")
    assert may(read, "certificates")
    assert not may(read, "contest.dead")


def test_the_reference_broker_is_as_it_was() -> None:
    reference = build("t", {"a": HostInput(frozenset({"rabbitmq"}), {"ssh_hostname": "10.0.0.1"})})
    assert rabbitmq_topology.users(context(reference, "a"))["omegaup"].permissions[0] == "^$"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed here")
def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    text = content("web1", "/etc/haproxy/haproxy.cfg")
    assert "listen mysql\n" in text
    assert "mysql-reads" not in text
    assert re.search(r"server db1 \S+:3306 check", text)
    file = tmp_path / "haproxy.cfg"
    issue(tmp_path, "proxy")
    # There is no revocation list here.
    text = text.replace(f" crl-file {CRL_FILE}", "").replace(SSL_DIR, str(tmp_path))
    file.write_text(re.sub(r"^ *(user|group|chroot) .*\n", "", text, flags=re.M).replace("/run/haproxy", str(tmp_path)))
    done = subprocess.run(["haproxy", "-c", "-f", str(file)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


# -- MySQL -------------------------------------------------------------------------------------------------------------


def test_mysql_has_what_the_migrations_need() -> None:
    """Facts of omegaup/omegaup: frontend/database/00001 and 00002, and schema.sql."""
    values = upstream_mysql.variables(context(FLEET, "db1"))
    assert values["event_scheduler"] == "ON"
    assert values["time_zone"] == "+00:00"
    assert values["collation_server"] == "utf8mb4_0900_ai_ci"
    text = content("db1", upstream_mysql.CONFIG)
    assert "default-time-zone = +00:00\n" in text
    assert "log_bin = binlog\n" in text
    found = state("db1")[f"file:{upstream_mysql.CONFIG}"]
    assert isinstance(found, File)
    assert "--validate-config" in found.check


@given(st.integers(1, 200))
def test_the_buffer_pool_is_in_whole_chunks(mebibytes: int) -> None:
    of = fleet(mysql={"innodb_buffer_pool_size": f"{mebibytes * 5}mb"})
    size = int(upstream_mysql.variables(context(of, "db1"))["innodb_buffer_pool_size"])
    assert size % (128 * 1024**2) == 0
    assert 0 <= size - mebibytes * 5 * 1024**2 < 128 * 1024**2


def test_accounts_come_from_where_their_programs_are() -> None:
    found = {(one.user, one.address) for one in upstream_mysql.logins(context(FLEET, "db1"))}
    at = {host.name: host.address for host in FLEET.hosts}
    assert found == {
        ("omegaup", at["web1"]), ("omegaup", at["web2"]), ("grader", at["app1"]), ("gitserver", at["app1"]),
        ("worker", at["app1"]),
    }  # fmt: skip


def test_grants_are_what_the_programs_statements_need() -> None:
    text = content("db1", upstream_mysql.ACCOUNTS_FILE)
    # Migration 1 grants to it, and MySQL 8 makes no account by a grant.
    assert "CREATE USER IF NOT EXISTS 'omegaup'@'localhost' IDENTIFIED WITH auth_socket ACCOUNT LOCK;" in text
    assert "GRANT DELETE, INSERT, SELECT, UPDATE, EXECUTE ON `omegaup`.* TO 'omegaup'@" in text
    address = FLEET.host("app1").address
    for table, privileges in {
        "Runs": "SELECT, UPDATE", "Submissions": "SELECT, UPDATE", "Problems": "SELECT", "Contests": "SELECT",
        "Problemset_Problems": "SELECT", "Identities": "SELECT", "Runs_Groups": "DELETE, INSERT, SELECT",
    }.items():  # fmt: skip
        assert f"GRANT CREATE, {privileges} ON `omegaup`.`{table}` TO 'grader'@'{address}';" in text
        assert f"REVOKE CREATE ON `omegaup`.`{table}` FROM 'grader'@'{address}';" in text
    assert text.count("TO 'gitserver'@") == 2
    assert "ALL PRIVILEGES ON" not in text


def test_a_host_without_mysql_in_its_sources_is_told_before_anything_is_installed(tmp_path: Path) -> None:
    first = next(item for item in state("db1").values() if isinstance(item, File) and "61-fleet-mysql" in item.path)
    assert first.order == 0
    for candidate, code in (("8.0.36-1debian12", 0), ("(none)", 1)):
        for tool, text in (("apt-cache", f"printf 'mysql-server:\\n  Candidate: {candidate}\\n'"), ("apt-get", ":")):
            (tmp_path / tool).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / tool).chmod(0o755)
        done = subprocess.run(
            ["/bin/sh", "-eu"], input=first.check, text=True, capture_output=True, check=False,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == code
    assert "no package source of this host has the package mysql-server" in done.stdout


ACCOUNTS = """\
#!/usr/bin/python3
# MySQL's tables of accounts, as far as the script asks.
import json, os, sys
state = os.environ["STATE"]
users = json.load(open(state))
before = list(users)
given = sys.argv[sys.argv.index("-e") + 1] if "-e" in sys.argv else sys.stdin.read()
if given.startswith("SELECT user, host"):
    print("\\n".join("\\t".join(one.split("@")) for one in users))
elif given.startswith("SELECT CONCAT('SHOW"):
    print("\\n".join(f"SHOW GRANTS FOR {one};" for one in users))
elif given.startswith("SELECT CONCAT(user"):
    print("\\n".join(users))
elif given.startswith("DROP USER"):
    users.remove(given.split("'")[1] + "@" + given.split("'")[3])
elif given.startswith("SHOW"):
    print(given.replace("SHOW", "GRANT USAGE"))
else:
    users += [name for name in os.environ["WANTED"].split() if name not in users]
if users != before:
    json.dump(users, open(state, "w"))
"""


def test_accounts_are_loaded_compared_and_strangers_go(tmp_path: Path) -> None:
    item = state("db1")["mysql:accounts"]
    assert isinstance(item, Parameter)
    (tmp_path / "mysql").write_text(ACCOUNTS)
    (tmp_path / "mysql").chmod(0o755)
    (tmp_path / "accounts.sql").write_text("CREATE USER ...;\n")
    users = tmp_path / "users"
    users.write_text(json.dumps(["root@localhost", "mysql.sys@localhost", "mallory@%"]))
    wanted = [f"{one.user}@{one.address}" for one in upstream_mysql.logins(context(FLEET, "db1"))]

    def run(script: str) -> subprocess.CompletedProcess[str]:
        script = script.replace(upstream_mysql.ACCOUNTS_FILE, str(tmp_path / "accounts.sql"))
        script = script.replace(upstream_mysql.RECORD, str(tmp_path / "record"))
        return subprocess.run(
            ["/bin/sh", "-eu"], input=script, text=True, capture_output=True, check=False,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "STATE": str(users), "WANTED": " ".join(wanted)},
        )  # fmt: skip

    first = run(item.query.script)
    assert first.stdout == "accounts\tnever loaded\n", first.stderr
    done = run(item.act)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(json.loads(users.read_text())) == {"root@localhost", "mysql.sys@localhost", *wanted}
    assert run(item.query.script).stdout.startswith("accounts\tas in ")
    users.write_text(json.dumps([*json.loads(users.read_text()), "eve@10.0.0.9"]))
    assert run(item.query.script).stdout == "accounts\tdiffer\n"
    assert run(item.act).returncode == 0
    assert "eve@10.0.0.9" not in json.loads(users.read_text())


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_read_where_the_programs_give_them() -> None:
    """Names and ports: quark:cmd/*/metrics.go, gitserver:cmd/omegaup-gitserver/main.go."""
    found = {job.name: job for job in jobs(FLEET)}
    for name, path in (
        ("grader", "/grader/metrics/metrics"), ("broadcaster", "/broadcaster/metrics/metrics"),
        ("runner", "/runner/metrics/metrics"), ("gitserver", "/gitserver/http/metrics"),
    ):  # fmt: skip
        (target,) = found[name].targets
        # Plain HTTP without anybody's name: through the door of the host, which asks for a certificate.
        assert target.address.endswith(":9443")
        assert target.labels["__metrics_path__"] == path
    assert "worker" not in found
    for number in (6061, 6062):
        assert f"server local 127.0.0.1:{number}" in content("app1", door.CONFIG)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed here")
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    rules = next(item for item in state("mon1").values() if isinstance(item, File) and item.path.endswith(".rules.yml"))
    (tmp_path / "rules.yml").write_text(rules.content)
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Exported, and never changed: nobody is to be woken by them, nor to rely on them.
    for dead in ("queue_ephemeral_length", "queue_low_length", "queue_normal_length", "queue_high_length",
                 "quark_grader_runs_retry", "quark_grader_runs_abandoned"):  # fmt: skip
        assert dead not in rules.content


def test_names_of_hosts_and_services_are_known_where_they_are_used() -> None:
    for host, names in (
        ("run1", ("grader",)), ("web1", ("grader", "gitserver", "broadcaster", "mysql", "redis", "rabbitmq")),
        ("app1", ("frontend", "gitserver", "broadcaster", "mysql")),
    ):  # fmt: skip
        known = {line.split()[1] for line in content(host, "/etc/hosts").splitlines() if re.match(r"\d", line)}
        assert set(names) <= known


def test_no_registry_and_no_machine_is_named() -> None:
    others = re.compile(r"https?://(?!releases\.example|judge\.example|127\.0\.0\.1)[a-z0-9.]+\.[a-z]{2,}")
    for path in (*ROOT.glob("inventories/upstream/**/*.py"), *ROOT.glob("templates/upstream/*")):
        assert not others.search(path.read_text()), path


def test_the_table_of_ports_is_the_profiles() -> None:
    rows = {}
    for line in (ROOT / "docs/upstream.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].isdigit():
            rows[int(cells[1])] = cells
    reference = {service.name: service for service in CATALOG}
    changed = [one for one in UPSTREAM.services if one is not reference[one.name] or one.name == "frontend"]
    wanted = {
        port.number: (service.name, port)
        for service in changed
        if service.name not in {"redis", "rabbitmq", "proxy"}
        for port in service.ports
    }
    assert set(rows) == set(wanted)
    for number, (name, port) in wanted.items():
        shown, _, tls, clients = rows[number]
        assert shown.startswith(name)
        assert (tls == "mutual") == (port.tls is Tls.MUTUAL)
        who = {"anyone"} if ANYONE in port.clients else port.clients
        assert set(clients.split(", ")) == (who or {"the host itself"})
