"""The neighbours of a frontend, and frontends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.unit.frontend.fakes import Authority, Broker, FakeGrader, Mariadb, whole_mariadb
from tests.unit.frontend.support import MODULES, PACKAGES, Shared, Site, World, need


@pytest.fixture(scope="session")
def php() -> str:
    need("php", PACKAGES)
    modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=True).stdout.split()
    missing = sorted(MODULES - set(modules))
    if missing or not Path("/usr/share/php/PhpAmqpLib/autoload.php").exists():
        pytest.skip(f"PHP lacks {', '.join(missing) or 'php-amqplib'}: apt-get install {PACKAGES}")
    return "php"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("ssl"))
    authority.client()
    return authority


@pytest.fixture(scope="module")
def shared_world(php: str, tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("shared"), authority)
    yield world
    world.close()


@pytest.fixture(scope="module")
def shared_servers(shared_world: World) -> tuple[Site, FakeGrader, Broker]:
    grader, broker = shared_world.grader(), shared_world.broker()
    return shared_world.site(), grader, broker


@pytest.fixture
def shared(shared_servers: tuple[Site, FakeGrader, Broker]) -> Shared:
    """One frontend for a module's tests that change nothing: starting one takes as long as ten requests."""
    site, grader, broker = shared_servers
    grader.seen.clear()
    broker.published.clear()
    return Shared(site, grader, broker)


@pytest.fixture
def world(php: str, tmp_path: Path, authority: Authority) -> Iterator[World]:
    world = World(tmp_path, authority)
    yield world
    world.close()


@pytest.fixture(scope="session")
def mariadb(php: str) -> Iterator[Mariadb]:
    need("mariadbd", "mariadb-server (without starting its service)")
    with whole_mariadb("front") as server:
        yield server
