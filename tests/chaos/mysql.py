"""What the suites of the database have in common: a table of rows, the verdict on a ledger, the command."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import results
from tests.chaos.failover import database, eventually, fresh_table, settled, sql, the_fleet
from tests.chaos.load import TABLE, Ledger
from tests.chaos.support import INVENTORY, ROOT, altered, apply

MEMBERS = tuple(host.name for host in the_fleet().members("mysql"))


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """The load's table, and a fleet that is what its inventory says, before and after."""
    settled()
    fresh_table()
    yield
    apply()
    settled()
    sql(database(), f"DROP TABLE IF EXISTS {TABLE}")


def judge(fault: str, ledger: Ledger, bar: float, begun: float, until: float) -> None:
    """No acknowledged row is missing or there twice, on any member; writes paused no longer than `bar` seconds."""
    pause = ledger.gap(begun, until)
    rows = sql(database(), f"SELECT id FROM {TABLE}")
    lost, twice = ledger.ids() - set(rows), len(rows) - len(set(rows))
    results.note(
        f"MySQL: {fault}", seconds_without_writes=pause, acknowledged_and_lost=len(lost), there_twice=twice,
    )  # fmt: skip
    assert lost == set()
    assert twice == 0
    assert pause < bar, f"{pause:.1f} s without writes; refused: {ledger.refusals[-3:]}"


def nothing_lost(fault: str, ledger: Ledger) -> None:
    rows = sql(database(), f"SELECT id FROM {TABLE}")
    lost, twice = ledger.ids() - set(rows), len(rows) - len(set(rows))
    results.note(f"MySQL: {fault}", acknowledged_and_lost=len(lost), there_twice=twice)
    assert ledger.ids()
    assert lost == set()
    assert twice == 0


def same_everywhere() -> None:
    """Table by table, the same checksums on all members."""

    def sums(host: str) -> list[str]:
        tables = sql(host, "SHOW TABLES")
        return sql(host, f"CHECKSUM TABLE {', '.join(tables)}")

    eventually("equal checksums", lambda: len({tuple(sums(host)) for host in MEMBERS}) == 1, 30)


def db_command(*words: str) -> tuple[int, str]:
    """`fleet db WORD INVENTORY ...`: exit code and all that it said."""
    command = [str(ROOT / "fleet"), "db", words[0], INVENTORY, *words[1:]]
    done = subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, timeout=300, stdin=subprocess.DEVNULL, check=False
    )
    return done.returncode, done.stdout + done.stderr


def having(folder_: Path, *members: str) -> Path:
    """A copy of the inventory with these database members."""
    copy = altered(folder_, "")
    text = (copy / "inventory.py").read_text()
    changed = re.sub(r"(?m)^mysql = .*$", f"mysql = {list(members)!r}", text)
    assert changed != text
    (copy / "inventory.py").write_text(changed)
    return copy
