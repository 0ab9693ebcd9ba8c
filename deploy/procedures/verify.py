"""Running the testinfra suite against an inventory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.converge.desired import ROOT


def run_suite(path: Path, arguments: Sequence[str] = ()) -> int:
    """Run tests/fleet against the inventory in `path`; returns pytest's exit code (0: all passed)."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests" / "fleet"),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"FLEET_INVENTORY": str(path)}, check=False).returncode
