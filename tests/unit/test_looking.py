"""How often a run compares and looks: each operation asks what is to be done, and a look at a whole host costs seconds.

The host is imitated: what a look at it answers, and what acting on it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.converge import compare, desired
from deploy.converge.engine import Run
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.observed import Answer, FileState, HostFactsSeen, Snapshot
from deploy.model.resources import File, HostState, Package, Parameter, Phase, Query, Resource

FACTS = HostFactsSeen("debian", "12", 2**33, 2**33)
CONF = File(path="/etc/a.conf", content="2\n", role="a")
DROP_IN = File(path="/etc/systemd/system/b.service.d/60.conf", content="x\n", role="a")
OTHER = File(path="/etc/b.conf", content="b\n", role="b")
SIZE = Parameter(query=Query("a", "true"), name="size", want="2", act="true", role="a", loads=(CONF.path,))


class Imitated:
    """`looks`: the roles that each look was at. `has`: paths -> content; `size`: what the server runs with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *resources: Resource) -> None:
        self.looks: list[set[str]] = []
        self.compared = 0
        self.has: dict[str, str] = {OTHER.path: OTHER.content}
        self.size = "1"
        self.fails = False
        state = HostState("h", resources)
        keys: Any = SimpleNamespace(
            vault=SimpleNamespace(values=list),
            authorities=SimpleNamespace(
                issuer=SimpleNamespace(certificate_pem="", offline=False), reissue=dict, bundle="", lists=()
            ),
        )
        fleet: Any = SimpleNamespace(
            hosts=[SimpleNamespace(name="h")],
            host=lambda name: SimpleNamespace(name=name, settings=None),
            services=list,
        )
        monkeypatch.setattr("deploy.model.fleet.Live.first_boot", lambda fleet: None)
        monkeypatch.setattr(desired, "host_state", lambda context: state)
        monkeypatch.setattr(Run, "context", lambda run, name: None)
        monkeypatch.setattr("deploy.converge.checks.fit", lambda spec, facts: None)
        monkeypatch.setattr("deploy.converge.checks.in_time", lambda spec, facts, between: None)
        real = compare.steps

        def counted(*arguments: Any, **more: Any) -> list[Step]:
            self.compared += 1
            return real(*arguments, **more)

        monkeypatch.setattr(compare, "steps", counted)
        monkeypatch.setattr(Run, "_asked", self.asked)
        monkeypatch.setattr(Run, "_run", self.act)
        self.run = Run(fleet, Path(), keys, {"h": None}, frozenset({"h"}))  # type: ignore[dict-item]

    def asked(self, name: str, wanted: Sequence[Resource], seconds: int) -> Snapshot:
        self.looks.append({item.role for item in wanted})
        made = {item.path: File(path=item.path, content=self.has[item.path]) for item in wanted
                if isinstance(item, File) and item.path in self.has}  # fmt: skip
        files = {path: FileState("file", "root", "root", 0o644, file.sha256) for path, file in made.items()}
        answers = {"a": Answer({"size": self.size})} if SIZE in wanted else {}
        return Snapshot(name, FACTS, files=files, answers=answers)

    def act(self, name: str, steps: list[Step]) -> None:
        if self.fails:
            raise FleetError(host=name, subject=steps[0].key, found="no", expected="")
        for step in steps:
            if isinstance(step.resource, File):
                self.has[step.resource.path] = step.resource.content
            elif step.resource is SIZE:
                self.size = "2"

    def do(self, role: str, phase: Phase) -> list[str]:
        steps = self.run.todo("h", role, phase)
        self.run.act("h", steps)
        return [step.key for step in steps]


def test_what_has_not_changed_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Imitated(monkeypatch, CONF, SIZE, OTHER)
    for _ in range(3):
        for phase in Phase:
            host.run.todo("h", "b", phase)
    assert (len(host.looks), host.compared) == (1, 1)


def test_after_a_file_or_a_value_only_its_own_role_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Imitated(monkeypatch, CONF, SIZE, OTHER)
    assert host.do("a", CONF.order) == [CONF.key]
    assert host.do("a", SIZE.order) == [SIZE.key]
    assert [step.key for step in host.run.steps("h")] == []
    assert host.looks == [{"a", "b"}, {"a"}, {"a"}]


def test_what_another_role_lacks_is_still_known_then(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Imitated(monkeypatch, CONF, OTHER)
    host.has[OTHER.path] = "changed by somebody\n"
    host.do("a", CONF.order)
    assert [step.key for step in host.run.steps("h")] == [OTHER.key]


@pytest.mark.parametrize("item", [Package(name="p", role="a"), DROP_IN, File(path="/etc/gone", absent=True, role="a")])
def test_after_what_may_change_anything_all_is_looked_at(item: Resource, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Imitated(monkeypatch, item, OTHER)
    if isinstance(item, File) and item.absent:
        host.has[item.path] = "x"
    assert host.do("" if isinstance(item, Package) else "a", item.order) == [item.key]
    host.run.steps("h")
    assert host.looks == [{"a", "b"}, {"a", "b"}]


@pytest.mark.parametrize(("loads", "script"), [((CONF.path,), "true"), ((), f"sha256sum {CONF.path}")])
def test_after_a_file_that_another_role_asks_about_all_is_looked_at(
    loads: tuple[str, ...], script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker whose lists are those of the file before is not what it was once the file has changed."""
    lists = Parameter(query=Query("b", script), name="lists", want=None, role="b", loads=loads)
    host = Imitated(monkeypatch, CONF, OTHER, lists)
    host.do("a", CONF.order)
    host.run.steps("h")
    assert host.looks == [{"a", "b"}, {"a", "b"}]


def test_after_a_failure_all_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Imitated(monkeypatch, CONF, OTHER)
    host.fails = True
    with pytest.raises(FleetError):
        host.do("a", CONF.order)
    host.run.steps("h")
    assert host.looks[1:] == [{"a", "b"}]
