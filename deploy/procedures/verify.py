"""Running the testinfra suite against an inventory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.converge.desired import ROOT
from deploy.converge.inventory import load


def run_suite(path: Path, arguments: Sequence[str] = ()) -> int:
    """Run tests/fleet against the inventory in `path`. Returns 0 when all passed, 1 when not, or nothing was run.

    Raises:
        FleetError, FleetErrors: what is wrong with the inventory.
    """
    load(path)
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
    environment = os.environ | {"FLEET_INVENTORY": str(path)}
    return min(1, abs(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode))
