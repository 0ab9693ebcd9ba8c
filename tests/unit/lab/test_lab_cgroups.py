"""The decision on trees as machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import cgroups
from lab.cgroups import detect
from lab.errors import LabError


def tree(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


def test_unified(tmp_path: Path) -> None:
    layout = detect(tree(tmp_path, "cgroup.controllers", "cgroup.procs", "system.slice/cgroup.procs"))
    assert (layout.kind, layout.roots, layout.v2) == ("unified", (tmp_path,), True)


def test_hybrid_reads_v2_and_uses_both(tmp_path: Path) -> None:
    tree(tmp_path, "systemd/cgroup.procs", "unified/cgroup.controllers", "unified/cgroup.procs", "memory/tasks")
    layout = detect(tmp_path)
    assert (layout.kind, layout.v2) == ("hybrid", True)
    assert layout.paths("lab0", "data1") == [
        tmp_path / "unified/fleet-lab/lab0/data1",
        tmp_path / "systemd/fleet-lab/lab0/data1",
    ]
    assert layout.path("lab0") == tmp_path / "unified/fleet-lab/lab0"


def test_legacy(tmp_path: Path) -> None:
    layout = detect(tree(tmp_path, "systemd/cgroup.procs", "memory/cgroup.procs"))
    assert (layout.kind, layout.roots, layout.v2) == ("legacy", (tmp_path / "systemd",), False)


@pytest.mark.parametrize("files", [[], ["memory/cgroup.procs"], ["unified/cgroup.controllers"]])
def test_none_fits(tmp_path: Path, files: list[str]) -> None:
    with pytest.raises(LabError, match="name=systemd"):
        detect(tree(tmp_path, *files))


def test_create_delegates_controllers_to_the_leaves_only(tmp_path: Path) -> None:
    tree(tmp_path, "cgroup.controllers").joinpath("cgroup.subtree_control").write_text("cpu memory pids")
    layout = detect(tmp_path)
    cgroups.create(layout, "lab0", "data1")
    host = tmp_path / "fleet-lab/lab0/data1"
    for branch in (tmp_path / "fleet-lab", tmp_path / "fleet-lab/lab0", host):
        assert (branch / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    for leaf in ("launcher", "unit"):
        assert (host / leaf).is_dir()
        assert not (host / leaf / "cgroup.subtree_control").exists()
    assert cgroups.children(layout, "lab0") == ["data1"]


def test_create_in_hybrid_delegates_nothing(tmp_path: Path) -> None:
    layout = detect(tree(tmp_path, "systemd/cgroup.procs", "unified/cgroup.controllers"))
    cgroups.create(layout, "lab0", "data1")
    assert [p.is_dir() for p in layout.paths("lab0", "data1", "unit")] == [True, True]
    assert not list(tmp_path.rglob("cgroup.subtree_control"))
    cgroups.remove(layout, "lab0")
    assert [p.exists() for p in layout.paths("lab0")] == [False, False]
    cgroups.remove(layout, "lab0")


def test_a_tree_that_cannot_be_written(tmp_path: Path) -> None:
    layout = detect(tree(tmp_path, "cgroup.controllers"))
    tree(tmp_path, "fleet-lab")
    with pytest.raises(LabError, match="privileged"):
        cgroups.create(layout, "lab0", "data1")


def test_pids_are_read_from_all_below(tmp_path: Path) -> None:
    layout = detect(tree(tmp_path, "cgroup.controllers"))
    for name, text in (("launcher", "11\n"), ("unit/payload/init.scope", "12\n13\n"), ("unit", "")):
        tree(tmp_path, f"fleet-lab/lab0/a/{name}/cgroup.procs").joinpath(
            f"fleet-lab/lab0/a/{name}/cgroup.procs"
        ).write_text(text)
    assert sorted(cgroups.pids(layout, "lab0", "a")) == [11, 12, 13]
    assert cgroups.pids(layout, "lab0", "b") == []


def test_init_is_the_first_of_its_pid_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = detect(tree(tmp_path, "cgroup.controllers"))
    payload = tree(tmp_path, "fleet-lab/lab0/a/unit/payload/cgroup.procs") / "fleet-lab/lab0/a/unit/payload"
    (payload / "cgroup.procs").write_text("20\n21\n22\n")
    # 21 is init; 22 is the init of a container within the host.
    spaces = {20: [20, 7], 21: [21, 1], 22: [22, 9, 1]}
    monkeypatch.setattr(cgroups, "_nspid", lambda pid: spaces.get(pid, [5]))
    assert cgroups.init_pid(layout, "lab0", "a") == 21
    assert cgroups.init_pid(layout, "lab0", "b") is None
