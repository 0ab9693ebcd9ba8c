"""What units may do to their hosts, as systemd judges them there and as the kernel holds their processes."""

from __future__ import annotations

import re
import time

import pytest
from testinfra.host import Host

from deploy.model.fleet import HostSpec
from tests.exposure import OWN, PACKAGED


def exposure(host: Host, unit: str) -> float:
    said = host.check_output(f"systemd-analyze security --no-pager {unit} 2>&1 | tail -n 1")
    match = re.search(r"level for \S+: ([0-9.]+)", said)
    assert match, said
    return float(match[1])


def units(host: Host) -> set[str]:
    """Those that are loaded, running or not."""
    lines = host.check_output("systemctl list-units --all --plain --no-legend --type=service").splitlines()
    return {line.split()[0] for line in lines if line.split()[1:2] != ["not-found"]}


def bound(unit: str) -> float | None:
    return (OWN | PACKAGED).get(re.sub(r"@.+[.]", "@.", unit))


def test_every_unit_stays_within_its_bound(host: Host, spec: HostSpec) -> None:
    too_much = {}
    for unit in units(host):
        allowed = bound(unit)
        if unit in PACKAGED and not spec.settings.base.sandbox:
            continue
        if allowed is not None and (found := exposure(host, unit)) > allowed:
            too_much[unit] = (found, allowed)
    assert too_much == {}


def test_debians_units_may_do_less_than_the_package_lets_them(host: Host, spec: HostSpec) -> None:
    """Its unit alone, without drop-ins, in a folder that stands for a root."""
    if not spec.settings.base.sandbox:
        pytest.skip("base.sandbox is off")
    worse = {}
    for unit in units(host) & set(PACKAGED):
        script = (
            "set -e; t=$(mktemp -d); trap 'rm -rf $t' EXIT; mkdir -p $t/lib/systemd/system; "
            f"cp $(systemctl show -p FragmentPath --value {unit}) $t/lib/systemd/system/{unit}; "
            f"systemd-analyze security --offline=true --root=$t --no-pager {unit} 2>&1 | tail -n 1"
        )
        said = re.search(r"level for \S+: ([0-9.]+)", host.check_output("sh -c %s", script))
        assert said
        if exposure(host, unit) >= float(said[1]):
            worse[unit] = float(said[1])
    assert worse == {}


def loose_process(host: Host, unit: str) -> str:
    """The number of a unit's process that the kernel does not hold to anything; empty if there is none."""
    pid: str = host.check_output(f"systemctl show -p MainPID --value {unit}")
    if pid == "0":
        return ""
    status = host.run(f"grep -E '^(NoNewPrivs|Seccomp):' /proc/{pid}/status").stdout.split()
    return pid if status and (status[1], status[3]) != ("1", "2") else ""


def test_the_kernel_holds_the_processes_to_it(host: Host, spec: HostSpec) -> None:
    """A drop-in counts from the next start; the process says whether that was.

    After an upgrade of a fleet: `fleet roll`, then, for nginx, PHP-FPM and HAProxy, which are rolled without a restart,
    `fleet roll --reboot --hosts HOST,...`.
    """
    asked = {unit for unit in units(host) if bound(unit) is not None}
    if not spec.settings.base.sandbox:
        asked -= set(PACKAGED)
    loose = {unit: pid for unit in asked if (pid := loose_process(host, unit))}
    # Between its fork and its program's start a process is not confined yet: a timer's, say, that begins just now.
    until = time.monotonic() + 5
    while loose and time.monotonic() < until:
        loose = {unit: pid for unit, pid in loose.items() if loose_process(host, unit) == pid}
    assert loose == {}


def test_no_confined_service_was_refused_a_call_that_ended_it(host: Host, spec: HostSpec) -> None:
    """SIGSYS: a filter that is too narrow ends a program with it."""
    ended = host.run("journalctl -q --no-pager -b -o cat | grep -E 'code=(killed|dumped), status=31/SYS'").stdout
    # A submission that calls what it may not ends like this; that is its verdict.
    assert [line for line in ended.splitlines() if "omegaup-sandbox@" not in line] == []
