"""What a rolling unit has loaded is kept while it is owed a restart, and comes back byte by byte: in a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.converge import shell
from deploy.converge.desired import host_state
from deploy.model import resources as want
from deploy.model.resources import File, Parameter
from tests.unit.roll.fleets import context

UNIT = "x.service"


def run(root: Path, script: str, active: bool = True, started: int = 0) -> None:
    """The shell's own functions, with everything below `root` and a systemctl that knows one unit."""
    preamble = shell.PREAMBLE[shell.PREAMBLE.index("# outdated UNIT") :]
    stub = (
        f"systemctl() {{ case $1 in is-active) {'true' if active else 'false'} ;; show) echo @{started} ;; esac; }}\n"
    )
    text = f"set -eu\n{stub}{preamble}\n{script}".replace(want.ROLLING, str(root / "rolling"))
    subprocess.run(["sh", "-s"], input=text, text=True, check=True, capture_output=True)


def put(path: Path, content: str) -> str:
    return shell.put(File(path=str(path), content=content, owner="", group="", kept_for=(UNIT,)))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "etc/x.conf"
    path.parent.mkdir()
    path.write_text("loaded\n")
    return path


def test_the_first_overwriting_keeps_what_was_loaded_and_later_ones_do_not(tmp_path: Path, conf: Path) -> None:
    run(tmp_path, put(conf, "first\n"))
    run(tmp_path, put(conf, "second\n"))
    assert conf.read_text() == "second\n"
    run(tmp_path, shell.bring_back(UNIT))
    assert conf.read_text() == "loaded\n"


def test_once_it_is_proven_the_next_change_keeps_what_runs_then(tmp_path: Path, conf: Path) -> None:
    run(tmp_path, put(conf, "first\n"))
    run(tmp_path, shell.forget_kept(UNIT))
    run(tmp_path, put(conf, "second\n"))
    run(tmp_path, shell.bring_back(UNIT))
    assert conf.read_text() == "first\n"


def test_a_file_that_was_not_there_goes_again(tmp_path: Path, conf: Path) -> None:
    new = conf.parent / "y.conf"
    run(tmp_path, put(new, "new\n"))
    assert new.read_text() == "new\n"
    run(tmp_path, shell.bring_back(UNIT))
    assert not new.exists()


def test_a_unit_that_does_not_run_has_loaded_nothing(tmp_path: Path, conf: Path) -> None:
    run(tmp_path, put(conf, "first\n"), active=False)
    assert not (tmp_path / "rolling").exists()


def test_owner_and_mode_come_back(tmp_path: Path, conf: Path) -> None:
    conf.chmod(0o640)
    run(tmp_path, put(conf, "first\n"))
    conf.chmod(0o600)
    run(tmp_path, shell.bring_back(UNIT))
    assert conf.stat().st_mode & 0o777 == 0o640


def test_nothing_kept_is_an_error_and_no_silence(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run(tmp_path, shell.bring_back(UNIT))


def test_every_file_that_a_rolling_unit_loads_is_kept_for_it() -> None:
    state = host_state(context("data1"))
    kept = {item.path: item.kept_for for item in state.resources if isinstance(item, File) and item.kept_for}
    assert kept["/etc/redis/cache/managed.conf"] == ("redis-cache.service",)
    assert kept["/etc/systemd/system/redis-sessions.service"] == ("redis-sessions.service",)
    assert kept["/etc/rabbitmq/rabbitmq.conf"] == ("rabbitmq-server.service",)
    assert kept["/etc/mysql/mariadb.conf.d/99-fleet.cnf"] == ("mariadb.service",)
    release = [item for item in state.resources if isinstance(item, Parameter) and item.writes]
    assert [item.kept_for for item in release] == [("omegaup-mysql-agent.service",)]


@pytest.mark.parametrize(("later", "back"), [(-1, "loaded"), (10, "first")])
def test_a_restart_by_hand_makes_what_it_loaded_the_way_back(tmp_path: Path, conf: Path, later: int, back: str) -> None:
    run(tmp_path, put(conf, "first\n"))
    since = int((tmp_path / "rolling" / UNIT / "since").read_text())
    run(tmp_path, put(conf, "second\n"), started=since + later)
    run(tmp_path, shell.bring_back(UNIT))
    assert conf.read_text() == f"{back}\n"
