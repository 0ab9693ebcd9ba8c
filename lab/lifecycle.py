"""The lab as a whole: bring it up, look at it, and what is asked of one of its hosts.

Nothing is remembered that can be seen: which hosts run is read from the cgroups.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab import disk, host, image, inside, machine, network, preflight, shaping, snapshots, ssh
from lab.errors import LabError
from lab.locks import on_host, on_lab
from lab.paths import LabPaths
from lab.progress import Progress, Reporter, each
from lab.spec import LabSpec


@dataclass(frozen=True)
class UpResult:
    """What `up` did."""

    started: tuple[str, ...]
    already: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class HostStatus:
    """A host as it is now. `memory_mib` is the proportional set size of its processes."""

    name: str
    address: str
    state: str  # running, starting or stopped
    pid: int | None
    systemd: str
    memory_mib: float


def up(
    spec: LabSpec,
    hosts: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    install: bool = False,
) -> UpResult:
    """Bring hosts up (all by default) and wait until they answer; those that run are left alone.

    A host without a disk gets a bare one; a stopped one goes on with its own.
    """
    report = Reporter(progress)
    names = spec.select(tuple(hosts) if hosts is not None else None)
    with on_lab(spec):
        down_now = tuple(n for n in names if inside.pid(spec, n) is None)
        already = tuple(n for n in names if n not in down_now)
        for name in already:
            report("runs already", name, True)
        if down_now:
            preflight.check(spec, len(down_now), install=install, progress=report)
        if down_now or not network.is_up(spec):
            _start(spec, down_now, report)
            for name in already:
                network.plug(spec, _running(spec, name))
    return UpResult(down_now, already, report.seconds)


def _start(spec: LabSpec, names: Sequence[str], report: Reporter) -> None:
    """Start hosts that are down, all at once. The caller holds the lock."""
    machine.enter(spec)
    mtu = network.outer_mtu()
    network.ensure(spec, mtu)
    if warning := network.forward_blocker(spec):
        report(warning)
    ssh.pin(spec)
    fresh = [n for n in names if disk.Record.load(LabPaths.of(spec).host(n)) is None]
    key = image.ensure(spec.suite, report, LabPaths.of(spec).base / "log" / "image.log") if fresh else ""

    def boot(name: str) -> None:
        host.power_cut(spec, name)  # what an interrupted start may have left
        made = disk.ensure(spec, name, key, mtu)
        report("booting", name)
        host.launch(spec, name)
        host.wait_started(spec, name, fresh=made, cancelled=cancelled.is_set)
        report("answers", name, True)

    cancelled = threading.Event()
    try:
        each(names, boot)
    except KeyboardInterrupt:
        cancelled.set()
        raise


def list_hosts(spec: LabSpec) -> list[HostStatus]:
    """State of every host of the inventory."""
    preflight.check_root()

    def look(name: str) -> HostStatus:
        init = inside.pid(spec, name)
        if init is None:
            state = "starting" if host.active(spec, name) else "stopped"
            return HostStatus(name, spec.address(name), state, None, "-", 0.0)
        return HostStatus(
            name,
            spec.address(name),
            "running",
            init,
            inside.systemd_state(spec, name),
            round(inside.memory_mib(spec, name), 1),
        )

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(look, spec.hosts))


def start(spec: LabSpec, name: str) -> bool:
    """Start a stopped host and wait until it answers. True if it did not run before."""
    spec.check_host(name)
    if not network.is_up(spec):
        return bool(up(spec, [name]).started)
    with on_host(spec, name):
        if inside.pid(spec, name) is not None:
            return False
        report = Reporter(None)
        preflight.check(spec, 1, install=False, progress=report)
        _start(spec, [name], report)
    return True


def stop(spec: LabSpec, name: str) -> bool:
    """Power a host off in order. True if it ran."""
    with on_host(spec, name):
        return host.stop(spec, name)


def kill(spec: LabSpec, name: str) -> bool:
    """Cut a host's power: all of it dies at once, its disk stays. True if it ran."""
    with on_host(spec, name):
        return host.power_cut(spec, name)


def reset(spec: LabSpec, name: str) -> None:
    """Make a host bare again: only its keys and address stay. It runs afterwards if it ran before."""
    with on_host(spec, name):
        ran = host.power_cut(spec, name)
        disk.harvest(spec)
        disk.wipe(spec, name)
    if ran:
        start(spec, name)


def snapshot(spec: LabSpec, name: str, snapshot_name: str) -> None:
    """Power a host off and keep its disk's present state under a name. The host stays off."""
    if not snapshot_name or set(snapshot_name) & set("/:,\\. "):
        raise LabError(snapshot_name, "not a name for a snapshot", "letters, digits, dashes")
    with on_host(spec, name):
        host.stop(spec, name)
        snapshots.take(spec, name, snapshot_name)


def restore(spec: LabSpec, name: str, snapshot_name: str) -> None:
    """Give a host (the same or another) a snapshot's disk, with its own keys and machine-id. It stays off."""
    with on_host(spec, name):
        host.power_cut(spec, name)
        snapshots.restore(spec, name, snapshot_name, network.outer_mtu())


def shape(spec: LabSpec, name: str, delay_ms: float | None = None, loss: float | None = None) -> None:
    """Make a host's network lose packets (percent) or delay them: see `shaping.shape`."""
    with on_host(spec, name):
        shaping.shape(spec, name, _running(spec, name), delay_ms, loss)


def unshape(spec: LabSpec, name: str) -> None:
    """End the shaping of a host's network."""
    shape(spec, name)


def _running(spec: LabSpec, name: str) -> int:
    init = inside.pid(spec, name)
    if init is None:
        raise LabError(name, "does not run", "a running host", f"fleet lab start {name}")
    return init
