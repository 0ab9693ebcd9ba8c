"""What can happen to a host and its services; each fault is undone when its block ends, whatever happened in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import lab
from lab import cgroups, inside
from tests.chaos.support import SPEC, on

TABLE = "chaos"


def kill_9(host: str, unit: str) -> None:
    """The process dies; systemd starts it again, as Debian's units and ours say."""
    on(host, f"systemctl kill -s KILL --kill-whom=all {unit}")


@contextmanager
def killed_for_good(host: str, *units: str) -> Iterator[None]:
    """The process dies and does not come back before the block ends (nor then, if it was fenced meanwhile)."""
    names = " ".join(units)
    # Not by a mask: that of /run is weaker than a unit in /etc.
    folders = " ".join(f"/run/systemd/system/{unit.removesuffix('.service')}.service.d" for unit in units)
    on(host, f"mkdir -p {folders}\nfor f in {folders}; do printf '[Service]\\nRestart=no\\n' >$f/99-chaos.conf; done\n"
       f"systemctl daemon-reload; systemctl kill -s KILL --kill-whom=all {names}")  # fmt: skip
    try:
        yield
    finally:
        on(host, f"rm -rf {folders}; systemctl daemon-reload; systemctl reset-failed {names} || true\n"
           f"for u in {names}; do systemctl start $u || [ \"$(systemctl is-enabled $u)\" = masked ] ||\n"
           # The broker's watch ends a start that hangs; the one after it has to come about.
           "{ [ \"$(systemctl show -P Result $u)\" = signal ] && systemctl start $u; }; done")  # fmt: skip


@contextmanager
def power_cut(host: str) -> Iterator[None]:
    """The whole host, at once; it boots again when the block ends."""
    lab.kill(SPEC, host)
    try:
        yield
    finally:
        lab.start(SPEC, host)


@contextmanager
def frozen(host: str) -> Iterator[None]:
    """Nothing on the host runs, while its network card still answers: as a hanging machine does."""
    switch = inside.layout().path(SPEC.bridge, host, cgroups.UNIT) / "cgroup.freeze"
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text("0")


@contextmanager
def out_of_reach(host: str, others: Iterable[str], ports: Iterable[int], *, silent: bool = False) -> Iterator[None]:
    """These ports of those hosts cannot be reached from this one: refused at once, or (silent) never answered."""
    addresses, numbers = ", ".join(SPEC.address(name) for name in others), ", ".join(map(str, ports))
    verdict = "drop" if silent else "reject with tcp reset"
    chain = f"type filter hook output priority -300; ip daddr {{ {addresses} }} tcp dport {{ {numbers} }} {verdict};"
    on(host, f"nft -f - <<'RULES'\ntable ip {TABLE} {{\n  chain o {{ {chain} }}\n}}\nRULES")
    try:
        yield
    finally:
        on(host, f"nft delete table ip {TABLE} 2>/dev/null || true")


def isolated(host: str) -> AbstractContextManager[None]:
    """No packet passes between this host and any other of the lab."""
    return cut_off((host,), [name for name in SPEC.hosts if name != host])


@contextmanager
def cut_off(side: Iterable[str], others: Iterable[str], ports: Iterable[int] = ()) -> Iterator[None]:
    """No packet passes between these hosts and those, in either direction; to the controller they still speak.

    ports: only of these, on either side.
    """
    addresses = ", ".join(SPEC.address(host) for host in others)
    numbers = ", ".join(str(port) for port in ports)
    of = (f"tcp dport {{ {numbers} }} drop", f"tcp sport {{ {numbers} }} drop") if numbers else ("drop",)
    rules = f"""\
table ip {TABLE} {{
  chain i {{ type filter hook input priority -300; {"; ".join(f"ip saddr {{ {addresses} }} {one}" for one in of)}; }}
  chain o {{ type filter hook output priority -300; {"; ".join(f"ip daddr {{ {addresses} }} {one}" for one in of)}; }}
}}"""
    hosts = tuple(side)
    try:
        for host in hosts:
            on(host, f"nft -f - <<'RULES'\n{rules}\nRULES")
        yield
    finally:
        for host in hosts:
            on(host, f"nft delete table ip {TABLE} 2>/dev/null || true")
