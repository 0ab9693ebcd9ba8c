"""Each PHP file parses, and declares strict types."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.unit.frontend.support import FRONTEND

FILES = sorted(FRONTEND.rglob("*.php"))


def test_there_is_something_to_check() -> None:
    assert FRONTEND / "www" / "index.php" in FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FRONTEND)))
def test_parses(php: str, path: Path) -> None:
    done = subprocess.run([php, "-l", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "declare(strict_types=1);" in path.read_text()


def test_nothing_but_the_front_controller_is_served() -> None:
    assert [path.name for path in (FRONTEND / "www").iterdir()] == ["index.php"]


def test_sample_configuration_is_complete(php: str) -> None:
    code = f"require '{FRONTEND}/src/autoload.php'; OmegaUp\\Config::load(); echo OMEGAUP_RATE_LIMIT;"
    done = subprocess.run(
        [php, "-r", code],
        env={"OMEGAUP_CONFIG": str(FRONTEND / "config.sample.php")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "60", done.stdout + done.stderr
