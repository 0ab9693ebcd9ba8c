"""Across hosts: exactly one leader of each replicated service."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testinfra.host import Host

from deploy.model.fleet import Fleet
from tests.fleet.test_redis import info


@pytest.mark.parametrize("instance", ["cache", "sessions"])
def test_one_redis_primary(on: Callable[[str], Host], fleet: Fleet, instance: str) -> None:
    roles = [info(on(member.name), instance)["role"] for member in fleet.members("redis")]
    assert roles.count("master") == 1


def test_one_writable_database(on: Callable[[str], Host], fleet: Fleet) -> None:
    answers = [
        on(member.name).check_output("mariadb -NB -e 'SELECT @@GLOBAL.read_only'") for member in fleet.members("mysql")
    ]
    assert answers.count("0") == 1
