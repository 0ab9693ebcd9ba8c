"""What a setting says that its change costs is what it costs the real servers, for nearly every setting there is.

All settings of one class are changed at once. Hot: no process is another afterwards, and the servers say that they run
with the new values. Reload: the same, by a reload. Restart: nothing has taken the value before a roll, all have after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.failover import settled, the_fleet
from tests.chaos.rolling import paid, roll, started
from tests.chaos.support import altered, fleet
from tests.unit.test_apply_classes import EVERY, EXAMPLES, another

pytestmark = pytest.mark.thorough

LEFT_OUT = {
    "base.ssh_from": "would lock the controller out", "base.root_login": "would lock the controller out",
    "base.login": "would lock the controller out",
    "base.operators": "would lock the controller out", "base.ntp_servers": "waived in the lab",
    "base.service_nofile": "waived in the lab", "base.journal_max": "of a unit that apply restarts itself",
    "rabbitmq.user": "another account, not another value", "rabbitmq.vhost": "another broker, not another value",
    "mysql.tls": "is back only after another apply: see test_mysql_tls",
    "rabbitmq.tls": "takes an apply after the roll, see test_rabbitmq_tls",
    "rabbitmq.inter_node_tls": "takes a stop of all members, see test_rabbitmq_tls",
    "mysql.user": "another account, not another value", "mysql.database": "another database, not another value",
    "packages.pins": "see test_roll_packages", "environment": "no parameter of a server",
}  # fmt: skip

INSTEAD = EXAMPLES | {"mysql.wait_timeout": 28000}
"""The last one: not above what the proxies allow."""


def changes(applies: str) -> dict[str, dict[str, Any]]:
    """Section -> key -> a value that is not the lab's, for all settings of this class."""
    found: dict[str, dict[str, Any]] = {}
    for name, (info, _) in EVERY.items():
        section, _, key = name.partition(".")
        assert isinstance(info.json_schema_extra, dict)
        if (
            info.json_schema_extra["applies"] == applies
            and name not in LEFT_OUT
            and section not in {"trust", "machine"}
        ):
            now = next(getattr(getattr(host.settings, section), key) for host in the_fleet().hosts)
            found.setdefault(section, {})[key] = INSTEAD[name] if name in INSTEAD else another(info, now)
    return found


def changed(folder: Path, applies: str) -> Path:
    text = "".join(
        f"{section} = globals().get({section!r}, {{}}) | {values!r}\n" for section, values in changes(applies).items()
    )
    return altered(folder, text)


def owed(copy: Path) -> list[str]:
    steps = json.loads(fleet("plan", "--json", inventory=copy).stdout)["steps"]
    assert all(step["pending"] for step in steps), steps
    return [step["key"] for step in steps]


@pytest.fixture(autouse=True)
def restored(tmp_path: Path) -> Iterator[None]:
    settled()
    yield
    paid(tmp_path)
    settled()


@pytest.mark.parametrize("applies", ["hot", "reload"])
def test_declared_without_a_restart_takes_effect_without_one(applies: str, tmp_path: Path) -> None:
    before = started()
    copy = changed(tmp_path, applies)
    done = fleet("apply", inventory=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert started() == before
    assert owed(copy) == [], "the running values are the new ones"


def test_declared_restart_needs_one_and_a_roll_brings_it(tmp_path: Path) -> None:
    before = started()
    copy = changed(tmp_path, "restart")
    done = fleet("apply", inventory=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert started() == before
    pending = owed(copy)
    assert pending
    code, report = roll(copy)
    assert code == 0, report
    assert owed(copy) == []
    assert {who for who in before if started()[who] == before[who]} == set()
