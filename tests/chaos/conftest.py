"""At the end of a run: the worst of each figure, as a table that the README's figures come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos import results
from tests.chaos.failover import settled


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in results.table():
        terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def begun_well() -> None:
    """The fleet is what its inventory says when a module begins; each of its tests leaves it so."""
    settled()


@pytest.fixture(scope="session", autouse=True)
def fresh_results() -> Iterator[None]:
    results.begin()
    yield
    results.keep()
