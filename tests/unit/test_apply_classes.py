"""What a setting says that its change costs is what a plan then says, for every setting there is. No host is asked.

A host is imagined that is what the old settings want; then the new ones are compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from deploy.converge import compare
from deploy.converge.desired import host_state, render, tree
from deploy.converge.step import Step
from deploy.model import resources as want
from deploy.model.fleet import Context, Fleet, HostInput, Live, build
from deploy.model.observed import AccountState, Answer, FileState, HostFactsSeen, PackageState, Snapshot, UnitState
from deploy.model.resources import HostState, StepClass, Waiver
from deploy.model.settings import Settings

GROUPS = {
    "data1": {"redis", "sentinel", "rabbitmq", "mysql"}, "data2": {"redis", "sentinel", "rabbitmq", "mysql"},
    "data3": {"redis", "sentinel", "rabbitmq", "mysql"}, "app1": {"gitserver", "broadcaster", "grader", "worker"},
    "run1": {"runner"}, "web1": {"frontend"}, "mon1": {"monitoring"},
}  # fmt: skip
COST = {StepClass.CREATE: 0, StepClass.WRITE: 0, StepClass.HOT: 1, StepClass.RELOAD: 2, StepClass.RESTART: 3}
DECLARED = {"create": 0, "write": 0, "hot": 1, "reload": 2, "restart": 3}

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl somebody"
NOT_IN_A_PLAN = {
    "trust.authority_bits": "read when the CA is made",
    "trust.authority_days": "read when the CA is made",
    "trust.permitted": "read when the CA is made",
    "trust.key_type": "a new certificate: waived here",
    "trust.leaf_days": "a new certificate: waived here",
    "trust.renew_days": "when a certificate counts as due",
    "trust.crl_days": "read when a revocation list is signed",
    "base.disk_reserve": "read by the look",
    "frontend.fpm_child_memory": "read by the checks of the inventory",
    "mysql.max_allowed_packet": "rounded to whole KiB",
    "runner.languages": "what is installed is not taken away",
}


EXAMPLES: dict[str, Any] = {
    "frontend.address_requests": 200,
    "monitoring.webhook": "https://pager.example.org/alerts",
    "monitoring.deadman": "https://watch.example.org/alive",
    "monitoring.page_from": ["192.0.2.0/24"],
    "trust.permitted": [*GROUPS, "10.0.0.0/24"],
    "monitoring.mail": {"to": ["ana@example.org"], "sender": "judge@example.org", "relay": "mail.example.org:587"},
}
"""Where another value cannot be made from the default one."""


def fleet(**sections: Any) -> Fleet:
    inputs = {
        name: HostInput(frozenset(groups), {"ssh_hostname": f"10.0.0.{number}", **sections})
        for number, (name, groups) in enumerate(GROUPS.items(), 1)
    }
    return build("test", inputs)


def states(of: Fleet) -> dict[str, HostState]:
    live = Live(
        dict.fromkeys(("redis-cache", "redis-sessions", "rabbitmq", "mysql"), "data1"),
        frozenset({"redis-cache", "redis-sessions", "rabbitmq", "mysql"}),
    )
    found = {}
    for host in of.hosts:
        state = host_state(Context(of, host, live, "", lambda name: f"secret-{name}", render, tree))
        found[host.name] = HostState(state.host, state.resources, (Waiver("certificate:*", "there is no CA here"),))
    return found


def imagined(state: HostState) -> Snapshot:
    """A host that is exactly this."""
    files: dict[str, FileState] = {}
    packages, accounts, units = {}, {}, {}
    answers: dict[str, dict[str, str]] = {}
    for item in state.resources:
        match item:
            case want.File(absent=False):
                files[item.path] = FileState("file", item.owner, item.group, item.mode, item.sha256)
            case want.Directory():
                files[item.path] = FileState("directory", item.owner, item.group, item.mode)
            case want.Link():
                files[item.path] = FileState("symbolic link", "root", "root", 0o777, "", item.target)
            case want.Package():
                packages[item.name] = PackageState("1", True, False)
            case want.Account():
                accounts[item.name] = AccountState(item.home, item.shell, frozenset({item.name, *item.groups}))
            case want.Parameter():
                answers.setdefault(item.query.id, {})
                if item.want is not None:
                    answers[item.query.id][item.name] = item.want
            case want.Only():
                answers.setdefault(item.query.id, {})
    for item in state.resources:
        if isinstance(item, want.Unit):
            loaded = (*item.reload_files, *item.restart_files)
            for path in loaded:
                files.setdefault(path, FileState("file", "", "", 0, "as it was"))
            load, enabled = (
                ("masked", "masked") if item.masked else ("loaded", "enabled" if item.enabled else "disabled")
            )
            units[item.name] = UnitState(
                load, "active" if item.running else "inactive", "", enabled, False, 1, 1,
                {path: files[path].sha256 for path in loaded},
            )  # fmt: skip
    seen = {name: Answer(values) for name, values in answers.items()}
    return Snapshot(state.host, HostFactsSeen("debian", "12", 2**34, 2**34), files, packages, accounts, units, {}, seen)


BEFORE = states(fleet())
HOSTS = {name: imagined(state) for name, state in BEFORE.items()}


def settings() -> Iterator[tuple[str, FieldInfo, Any]]:
    """But for the other profile's: see tests/unit/upstream/test_costs.py."""
    for name, section in Settings.model_fields.items():
        fields = getattr(section.annotation, "model_fields", {})
        for key, info in fields.items() if name != "upstream" else ():
            if info.json_schema_extra and "applies" in info.json_schema_extra:
                yield f"{name}.{key}", info, getattr(getattr(Settings(), name), key)


EVERY = {name: (info, value) for name, info, value in settings()}


def another(info: FieldInfo, value: Any) -> Any:
    """A valid value that is not the default."""
    if get_origin(info.annotation) is Literal:
        return next(choice for choice in get_args(info.annotation) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple) and get_origin(get_args(info.annotation)[0]) is Literal:
        return value[1:] or get_args(get_args(info.annotation)[0])[:1]
    if isinstance(value, tuple):
        return {int: (*value, 2222), str: (*value, "192.0.2.0/24")}.get(get_args(info.annotation)[0], (KEY,))
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {"haproxy": "2.6.12-1+deb12u4"}
    most = next((bound.le for bound in info.metadata if hasattr(bound, "le")), None)
    step = 1024**2 if isinstance(value, int) and value >= 1024**2 else 1 if isinstance(value, int) else 0.1
    if isinstance(value, float) and value >= 2:
        step = 1.0
    return value + step if most is None or value + step <= most else value - step


def test_nothing_differs_from_itself() -> None:
    for name, state in BEFORE.items():
        assert [step.key for step in compare.steps(state, HOSTS[name], "")] == []


@pytest.mark.parametrize("setting", EVERY)
def test_a_change_costs_what_the_setting_says(setting: str) -> None:
    info, value = EVERY[setting]
    assert isinstance(info.json_schema_extra, dict)
    section, _, key = setting.partition(".")
    declared = DECLARED[str(info.json_schema_extra["applies"])]
    changed = states(fleet(**{section: {key: EXAMPLES.get(setting) or another(info, value)}}))
    found = [step for name, state in changed.items() for step in compare.steps(state, HOSTS[name], "")]
    if setting in NOT_IN_A_PLAN or section in {"roll", "machine"}:
        assert all(COST[step.step] <= declared for step in found), [step.key for step in found]
        return
    costs(found, declared)


def costs(found: list[Step], declared: int) -> None:
    """The dearest of these steps is what was declared."""
    assert found, "a change of it changes nothing"
    cost = max(COST[step.step] for step in found)
    assert cost == declared, [(step.key, step.step.value, step.summary) for step in found if COST[step.step] == cost]
