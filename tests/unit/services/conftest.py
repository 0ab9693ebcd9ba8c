"""Makes the services importable from the repository, and gives each test a certificate authority of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
for folder in (ROOT, ROOT / "files" / "services"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from tests.unit.services.support import Authority  # noqa: E402 - needs the path above


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")
