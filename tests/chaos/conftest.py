"""At the end of a run: the worst of each figure, as a table that the README's figures come from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos import results
from tests.chaos.failover import settled
from tests.chaos.support import REPEATS


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in results.table():
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` has half an hour: what is marked as thorough waits for `make chaos`, and is counted as deselected."""
    if REPEATS > 1 or config.getoption("keyword") or config.getoption("markexpr") or _named(config):
        return
    later = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=later)
    items[:] = [item for item in items if item not in later]


def _named(config: pytest.Config) -> bool:
    """Whether tests were asked for by name."""
    return any("::" in argument or argument.endswith(".py") for argument in config.args)


@pytest.fixture(scope="module")
def begun_well() -> None:
    """The fleet is what its inventory says when a module begins; each of its tests leaves it so."""
    settled()


@pytest.fixture(scope="session", autouse=True)
def fresh_results() -> Iterator[None]:
    results.begin()
    yield
    results.keep()
