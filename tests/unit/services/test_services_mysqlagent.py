"""What the agent beside the database tells the proxies."""

from __future__ import annotations

from typing import Any

import pytest
from omegaup_services.health import Unwell
from omegaup_services.mysqlagent import as_primary, as_replica

PRIMARY: dict[str, Any] = {"read_only": 0}
CLOSED: dict[str, Any] = {"read_only": 1}
REPLICA: dict[str, Any] = {
    "read_only": 1, "Master_Host": "10.0.0.1", "Slave_IO_Running": "Yes", "Slave_SQL_Running": "Yes",
    "Seconds_Behind_Master": 0,
}  # fmt: skip


def test_the_primary_takes_writes_and_reads() -> None:
    assert as_primary(PRIMARY) == "primary"
    assert as_replica(PRIMARY, 30) == "primary"


@pytest.mark.parametrize("answer", [CLOSED, {"read_only": "ON"}, REPLICA, REPLICA | {"read_only": 0}])
def test_nobody_else_takes_writes(answer: dict[str, Any]) -> None:
    """Neither one that came back and was not proven yet, nor a replica that somebody made writable."""
    with pytest.raises(Unwell):
        as_primary(answer)


def test_a_replica_in_step_takes_reads() -> None:
    assert as_replica(REPLICA, 30) == "replica of 10.0.0.1"
    assert as_replica(REPLICA | {"Seconds_Behind_Master": 30}, 30)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Slave_IO_Running": "Connecting"}, "Slave_IO_Running Connecting"),
        ({"Slave_SQL_Running": "No"}, "Slave_SQL_Running No"),
        ({"Seconds_Behind_Master": 31}, "31 s behind"),
        ({"Seconds_Behind_Master": None}, "None s behind"),
    ],
)
def test_one_that_is_not_takes_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Unwell, match=words):
        as_replica(REPLICA | change, 30)


def test_a_closed_primary_takes_no_reads_either() -> None:
    with pytest.raises(Unwell, match="not proven"):
        as_replica(CLOSED, 30)
