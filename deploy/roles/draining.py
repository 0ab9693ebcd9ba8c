"""Taking a member out of the proxies of all client hosts, so that nothing new is sent to it.

A proxy takes the member back by itself after BACK_SECONDS, so a controller that dies leaves nothing behind; whether the
member serves is still asked of it as ever.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from deploy.model.fleet import Context
from deploy.model.ways import Act
from deploy.roles.proxy import BEFORE, SOCKET, before

BACK_SECONDS = 300
WAIT_SECONDS = 5
"""How long what is connected has to go by itself."""


def _set(backends: Iterable[str], member: str, state: str) -> str:
    """Under both of its names: who has no second one says so, which changes nothing."""
    return "\n".join(
        f"echo 'set server {backend}/{name} state {state}' | socat -t 2 - UNIX-CONNECT:{SOCKET} >/dev/null"
        for backend in backends
        for name in (member, before(member))
    )


def _timer(backends: Iterable[str], member: str) -> str:
    return "fleet-undrain-" + "-".join((*backends, member))


def drain(ctx: Context, backends: tuple[str, ...], member: str) -> tuple[Act, ...]:
    """On every proxy: no new connection to the member; those that are there may end."""
    timer = _timer(backends, member)
    back = shlex.quote(_set(backends, member, "ready"))
    names = "|".join(backends)
    script = f"""\
systemctl is-active --quiet haproxy.service || exit 0
systemctl stop {timer}.timer 2>/dev/null || true
systemd-run --quiet --collect --unit={timer} --on-active={BACK_SECONDS} /bin/sh -c {back} 9>&-
{_set(backends, member, "drain")}
n=0
until [ "$(echo 'show stat' | socat -t 2 - UNIX-CONNECT:{SOCKET} |
  awk -F, '$1 ~ /^({names})$/ && $2 ~ /^{member}({BEFORE})?$/ {{ s += $5 }} END {{ print s + 0 }}')" = 0 ]; do
  n=$((n + 1))
  [ $n -lt {WAIT_SECONDS * 5} ] || break
  sleep 0.2
done"""
    return tuple(Act(host.name, script, 30) for host in ctx.fleet.members("proxy"))


def undrain(ctx: Context, backends: tuple[str, ...], member: str) -> tuple[Act, ...]:
    """On every proxy: the member is asked and used again."""
    script = f"""\
systemctl is-active --quiet haproxy.service || exit 0
{_set(backends, member, "ready")}
systemctl stop {_timer(backends, member)}.timer 2>/dev/null || true"""
    return tuple(Act(host.name, script, 30) for host in ctx.fleet.members("proxy"))
