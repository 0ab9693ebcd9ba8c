"""The deploy file: `pyinfra inventories/lab/inventory.py deploy/site.py` does what `fleet apply lab` does."""

import sys
from pathlib import Path

from pyinfra import config, state

# pyinfra runs this file from anywhere; the project is not an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploy.converge.operations import site
from deploy.converge.standalone import prepare

config.FAIL_PERCENT = 0
prepare(state)
site()
