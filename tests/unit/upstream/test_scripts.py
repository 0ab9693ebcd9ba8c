"""What is done on a host beside releases: bundles, migrations, the worker's start; run here.

Stand-ins are mysql and db-migrate alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.model.resources import File, Parameter, Phase, Unit
from deploy.model.settings import Artifact
from deploy.roles import upstream_migrations, upstream_release
from deploy.roles.upstream_worker import MY_CNF, arguments
from tests.unit.upstream.fleets import FLEET, UPSTREAM, content, context, fleet, secret, state


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh"], input=f"set -eu\nLC_ALL=C\n{script}\n", text=True, capture_output=True, check=False,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **environment},
    )  # fmt: skip


def parameter(host: str, key: str) -> Parameter:
    item = state(host)[key]
    assert isinstance(item, Parameter)
    return item


# -- certificate bundles -----------------------------------------------------------------------------------------------


class Pki:
    """A CA and what it issues, in the places that the scripts name, below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ssl, self.home = root / "ssl", root / "grader"
        self.ssl.mkdir()
        self.home.mkdir()
        self.made = parameter("app1", "certificate bundle: grader")
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca", "-days", "2",
                      "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.ssl, check=True, capture_output=True)

    def issue(self) -> None:
        (self.ssl / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=grader", "-keyout", "grader.key",
                      "-out", "grader.csr")  # fmt: skip
        self._openssl("x509", "-req", "-in", "grader.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "san", "-out", "grader.crt")  # fmt: skip

    def here(self, script: str) -> str:
        script = script.replace("/etc/omegaup/ssl", str(self.ssl)).replace("/etc/omegaup/grader", str(self.home))
        # The account is not on this machine.
        return script.replace("chgrp omegaup", ": omegaup")

    def asked(self) -> str:
        return shell(self.here(self.made.query.script)).stdout

    def bundle(self) -> subprocess.CompletedProcess[str]:
        return shell(self.here(self.made.act))

    @property
    def current(self) -> Path:
        return self.home / "current"


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_a_bundle_is_the_leaf_and_then_the_ca(pki: Pki) -> None:
    assert pki.asked() == "pair\tnone, or another\n"
    pki.issue()
    assert pki.asked() == "pair\tnone, or another\n"
    done = pki.bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    assert pki.asked() == "pair\tas issued\n"
    shown = (pki.current / "certificate.pem").read_text()
    assert shown == (pki.ssl / "grader.crt").read_text() + (pki.ssl / "ca.crt").read_text()
    assert (pki.current / "key.pem").read_text() == (pki.ssl / "grader.key").read_text()
    assert (pki.current / "key.pem").stat().st_mode & 0o777 == 0o640


def test_the_bundle_is_shown_and_trusted_as_it_is(pki: Pki) -> None:
    """A handshake in which each side has nothing but the two files, as the real programs do: openssl is both."""
    pki.issue()
    assert pki.bundle().returncode == 0
    pair = ["-cert", f"{pki.current}/certificate.pem", "-key", f"{pki.current}/key.pem"]
    trusted = ["-CAfile", f"{pki.current}/certificate.pem"]
    verified = subprocess.run(
        ["openssl", "verify", *trusted, f"{pki.current}/certificate.pem"], text=True, capture_output=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    server = subprocess.Popen(
        ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-Verify", "2", "-verify_return_error",
         *pair, *trusted],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    address = ""
    while not address.startswith("ACCEPT"):
        address = server.stdout.readline()
    client = subprocess.run(
        ["openssl", "s_client", "-connect", address.split()[1], "-verify_return_error", "-verify_hostname", "localhost",
         *pair, *trusted],
        input="Q\n", text=True, capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    server.communicate(timeout=30)
    assert "Verification: OK" in client.stdout, client.stdout + client.stderr


def test_a_new_pair_comes_as_one(pki: Pki) -> None:
    pki.issue()
    assert pki.bundle().returncode == 0
    first = pki.current.resolve()
    pki.issue()
    assert pki.asked() == "pair\tnone, or another\n"
    # Until it is bundled, what the program would load is the old pair, whole.
    subject = (pki.current / "certificate.pem").read_text()
    assert pki.bundle().returncode == 0
    assert pki.current.resolve() != first
    assert (pki.current / "certificate.pem").read_text() != subject
    assert not first.exists()
    assert len(list(pki.home.glob(".pair-*"))) == 1


def test_a_key_of_another_certificate_is_refused(pki: Pki) -> None:
    pki.issue()
    assert pki.bundle().returncode == 0
    before = pki.current.resolve()
    old = (pki.ssl / "grader.key").read_text()
    pki.issue()
    (pki.ssl / "grader.key").write_text(old)
    done = pki.bundle()
    assert done.returncode == 1
    assert "the key does not belong to the certificate" in done.stdout
    assert pki.current.resolve() == before
    assert len(list(pki.home.glob(".pair-*"))) == 1


# -- migrations --------------------------------------------------------------------------------------------------------

MYSQL = """\
#!/usr/bin/python3
# The database, as far as the script asks: its revision is in a file.
import os, sys
state, statement = os.environ["STATE"], sys.argv[-1]
if os.path.exists(state + ".down"):
    sys.exit("ERROR 2002 (HY000): Can't connect to local MySQL server")
there = os.path.exists(state)
if "information_schema" in statement:
    print(7 if os.path.exists(state + ".full") else 0)
elif statement.startswith("SHOW"):
    print("there" if there else "", end="")
elif there:
    print(open(state).read())
else:
    sys.exit("ERROR 1049 (42000): Unknown database '_omegaup_metadata'")
"""
MIGRATE = """\
import os, sys
folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "frontend/database")
state, words = os.environ["STATE"], sys.argv[1:]
with open(state + ".log", "a") as log:
    log.write(" ".join(words) + " " + os.environ["PYTHONPATH"] + "\\n")
if "migrate" in words:
    done = int(open(state).read()) if os.path.exists(state) else 0
    for name in sorted(os.listdir(folder)):
        number = int(name[:5])
        if number <= done:
            continue
        if "BROKEN" in open(os.path.join(folder, name)).read():
            sys.exit("ERROR 1064 (42000): You have an error in your SQL syntax")
        open(state, "w").write(str(number))
"""
SCRIPTS = {"00001_initial.sql": "CREATE TABLE a (b INT);", "00002_more.sql": "ALTER TABLE a ADD COLUMN c INT;"}


class Database:
    """A database's host: a release that is unpacked there, and stand-ins for mysql and db-migrate."""

    def __init__(self, root: Path) -> None:
        self.root, self.state = root, root / "revision"
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.bin / "mysql").write_text(MYSQL)
        (self.bin / "mysql").chmod(0o755)

    def made(self, read: str = "") -> Parameter:
        of = fleet(upstream={**UPSTREAM, "migrations_read": read})
        found = upstream_migrations.migrations(context(of, "db1"), "mysql", "/run/mysqld/mysqld.sock", "mysql.service")
        return next(item for item in found if isinstance(item, Parameter) and item.name == "migrations")

    def unpacked(self, scripts: Mapping[str, str] = SCRIPTS) -> None:
        target = Path(upstream_release.HOME, "frontend/releases", sha256()[:16])
        shutil.rmtree(target, ignore_errors=True)
        (target / "frontend/database").mkdir(parents=True)
        (target / "stuff").mkdir()
        (target / "stuff/db-migrate.py").write_text(MIGRATE)
        for name, text in scripts.items():
            (target / "frontend/database" / name).write_text(text)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return shell(script, PATH=f"{self.bin}:/usr/bin:/bin", STATE=str(self.state))

    def asked(self) -> str:
        return self.run(self.made().query.script).stdout.removeprefix("migrations\t").strip()

    def migrate(self, read: str = "") -> subprocess.CompletedProcess[str]:
        return self.run(self.made(read).act)

    @property
    def log(self) -> list[str]:
        path = self.state.with_suffix(".log")
        return path.read_text().splitlines() if path.exists() else []


def sha256() -> str:
    return str(UPSTREAM["frontend"]["sha256"])


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(upstream_release, "HOME", str(tmp_path / "opt"))
    monkeypatch.setattr(upstream_migrations, "BEGAN", str(tmp_path / "migrating"))
    return Database(tmp_path)


def test_a_new_database_is_migrated_once(database: Database) -> None:
    assert database.asked() == "the release is not unpacked"
    database.unpacked()
    # What asks never makes anything: db-migrate's own questions would.
    assert database.asked() == "at 0, pending: 00001 00002"
    assert database.log == []
    done = database.migrate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert database.asked() == "done"
    assert [line.split()[-2] for line in database.log] == ["validate", "--databases=omegaup"]
    assert all("--skip-container-check" in line and "--lower-timeout=no" in line for line in database.log)
    assert database.log[0].split()[-1] == f"{upstream_release.HOME}/python/releases/{UPSTREAM['python']['sha256'][:16]}"
    assert database.migrate().returncode == 0
    assert len(database.log) == 2


def test_a_database_in_use_waits_for_somebody_who_has_read_them(database: Database) -> None:
    database.unpacked()
    assert database.migrate().returncode == 0
    database.unpacked(
        {**SCRIPTS, "00003_less.sql": "alter table a drop column c;", "00004_new.sql": "CREATE TABLE d (e INT);"}
    )
    for read in ("", "0" * 64):
        done = database.migrate(read)
        assert done.returncode == 1
        assert (
            "at revision 2, and these scripts have not been read by anybody: 00003_less.sql 00004_new.sql"
            in done.stdout
        )
        assert "takes something away from the release that runs: 00003_less.sql\n" in done.stdout
        assert sha256() in done.stdout
    assert len(database.log) == 2
    assert database.asked() == "at 2, pending: 00003 00004"
    assert database.migrate(sha256()).returncode == 0
    assert database.asked() == "done"


def test_one_that_broke_off_is_not_gone_on_with(database: Database) -> None:
    database.unpacked({**SCRIPTS, "00003_broken.sql": "BROKEN"})
    done = database.migrate()
    assert done.returncode == 1
    assert "db-migrate stopped at revision 2" in done.stdout
    assert database.asked().startswith(f"broke off: migrations of release {sha256()[:16]} from revision 0, begun ")
    count = len(database.log)
    again = database.migrate(sha256())
    assert again.returncode == 1
    assert "no script is undone by itself" in again.stdout
    assert len(database.log) == count
    # Whoever has mended it says so.
    Path(upstream_migrations.BEGAN).unlink()
    database.unpacked({**SCRIPTS, "00003_broken.sql": "SELECT 1;"})
    assert database.migrate(sha256()).returncode == 0


def test_a_database_that_is_away(database: Database) -> None:
    database.unpacked()
    database.state.with_suffix(".down").write_text("")
    assert "the database does not say: ERROR 2002" in database.asked()
    # Not taken for a new one.
    done = database.migrate()
    assert done.returncode == 1
    assert "the database does not say where it stands: ERROR 2002" in done.stdout
    assert database.log == []


def test_a_full_database_without_a_record_is_not_a_new_one(database: Database) -> None:
    database.unpacked()
    database.state.with_suffix(".full").write_text("")
    done = database.migrate(sha256())
    assert done.returncode == 1
    assert "the database omegaup has tables (7), but nothing says up to which revision" in done.stdout
    assert database.log == []


def test_going_back_to_an_earlier_release_migrates_nothing(database: Database) -> None:
    database.unpacked({**SCRIPTS, "00003_new.sql": "CREATE TABLE d (e INT);"})
    assert database.migrate().returncode == 0
    database.unpacked()
    assert database.asked() == "done"
    assert database.migrate().returncode == 0
    assert database.state.read_text() == "3"


def test_migrations_are_one_hosts_and_come_before_everything_of_the_judges() -> None:
    holders = [host.name for host in FLEET.hosts if "migrations" in state(host.name)]
    assert holders == ["db1"]
    item = parameter("db1", "migrations")
    assert item.order is Phase.MEMBERS
    names = [service.name for service in FLEET.services()]
    assert all(names.index("mysql") < names.index(one) for one in ("gitserver", "grader", "frontend", "worker"))


def test_a_release_is_named_by_its_sha256() -> None:
    one = upstream_release.Release("x", (Artifact(source="x", sha256="ab" * 32),), ())
    assert one.id == ("ab" * 32)[:16]


# -- workers -----------------------------------------------------------------------------------------------------------


def test_no_list_of_processes_shows_the_workers_password(tmp_path: Path) -> None:
    """The script says what it sees of itself, and what everybody sees."""
    (tmp_path / "lib.py").write_text("NAME = 'beside it'\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\nimport lib\n"
        "seen = open('/proc/self/cmdline').read().split('\\0')\n"
        "print(json.dumps([sys.argv, seen, lib.NAME, __name__]))\n"
    )
    run = tmp_path / "run-script"
    run.write_text(content("app1", "/usr/local/lib/fleet/run-script"))
    config = tmp_path / "x.json"
    config.write_text(json.dumps({"script": str(script), "arguments": arguments(context(FLEET, "app1"))}))
    done = subprocess.run([sys.executable, str(run), str(config)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    own, seen, beside, name = json.loads(done.stdout)
    assert own == [str(script), *arguments(context(FLEET, "app1"))]
    assert secret("rabbitmq/app") in own
    assert secret("rabbitmq/app") not in " ".join(seen)
    assert (beside, name) == ("beside it", "__main__")


def test_the_consumers_arguments() -> None:
    """stuff/pipelines/rabbitmq_client.py, stuff/lib/db.py: with --user given, its file would not be read."""
    words = arguments(context(FLEET, "app1"))
    assert words[::2] == [
        "--rabbitmq-username", "--rabbitmq-password", "--rabbitmq-host", "--mysql-config-file", "--database",
    ]  # fmt: skip
    text = content("app1", MY_CNF)
    assert [line.split(" = ")[0] for line in text.splitlines()[2:]] == ["host", "port", "user", "password"]
    assert "port = 3306\n" in text
    held = state("app1")["file:/etc/omegaup/worker/certificates.json"]
    assert isinstance(held, File)
    assert json.loads(held.content)["script"] == "/opt/omegaup/stuff/pipelines/client_contest.py"
    unit = state("app1")["unit:omegaup-worker@certificates.service"]
    assert isinstance(unit, Unit)
    assert secret("rabbitmq/app") not in content("app1", "/etc/systemd/system/omegaup-worker@.service")


def test_the_daily_scripts_are_on_one_host() -> None:
    """omegaup/prod: k8s/omegaup/base/frontend/cronjobs.yaml."""
    times = {"update_ranks": "08:19", "assign_badges": "09:23", "aggregate_feedback": "10:18"}
    for name, at in times.items():
        assert f"OnCalendar=*-*-* {at}:00 UTC\n" in content("app1", f"/etc/systemd/system/omegaup-cron@{name}.timer")
    from deploy.roles import upstream_worker
    from tests.unit.upstream.fleets import GROUPS

    two = fleet({**GROUPS, "app2": frozenset({"worker"})})
    second = {item.key: item for item in upstream_worker.desired(context(two, "app2"))}
    assert "unit:omegaup-worker@certificates.service" in second
    assert not [key for key in second if key.startswith("unit:omegaup-cron")]
    assert "cron:omegaup-cron@*" in second
