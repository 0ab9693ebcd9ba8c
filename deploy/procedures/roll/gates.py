"""Asking gates: the whole service is looked at again and again until all hold several times in a row, or time is up."""

from __future__ import annotations

import secrets as random
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.converge import desired, health, remote
from deploy.converge.engine import Run
from deploy.converge.step import units_of
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors
from deploy.model.settings import Roll
from deploy.model.ways import HealthSeen, View, Way

MARK = "journalctl --sync 2>/dev/null || true\njournalctl -q -n 0 --show-cursor | sed -n 's/^-- cursor: //p'"
"""Shell: where the host's journal stands. Not the time: what failed right before a restart is in the same second."""
DECLARED = "declared"
"""The gate that is the engine's own: nothing of the service differs on the member any more."""


@dataclass
class _Failover:
    """A lead that moves by itself while a member is watched. `since`: when that was first seen, in the clock's seconds.

    `led`: who did when all was well.
    """

    led: str | None = None
    since: float | None = None

    def seen(self, leader: str | None, now: float, *, well: bool) -> None:
        if well:
            self.led, self.since = leader, None
        elif self.since is None and self.led is not None and leader != self.led:
            self.since = now


@dataclass
class Gates:
    """Looks at services and judges. `skip`: names of gates that are left out, to show what each is there for."""

    run: Run
    settings: Roll
    skip: frozenset[str] = frozenset()
    usual: dict[tuple[str, str], float] = field(default_factory=dict)

    def view(self, way: Way, member: str, *, out: bool = False, since: str | None = None) -> View:
        """One look at the members of a way's service and at its witnesses.

        Raises:
            FleetError: one of them does not answer.
        """
        run = self.run
        services = frozenset({way.service, *way.witnesses})
        members = [host.name for host in run.fleet.members(way.service)]
        seen = together(way.looked_at(run.fleet), lambda name: run.glance(name, services))
        found = together(members, lambda name: self._health(name, way.service))
        checks = tuple(one for part in found.values() for one in part)
        leader, dispute = self._leader(way, member, seen)
        errors = () if since is None else self._errors(way, member, since)
        return View(run.context(member), member, seen, checks, leader, dispute, out, self.usual, errors)

    def _leader(self, way: Way, member: str, seen: Mapping[str, object]) -> tuple[str | None, str]:
        if not way.cluster:
            return None, ""
        try:
            found = desired.role(self.run.fleet.profile.service(way.service)).clusters(self.run.context(member), seen)  # type: ignore[arg-type]
        except FleetError as error:
            return None, error.message()
        return found[way.cluster].leader, ""

    def _health(self, name: str, service: str) -> list[HealthSeen]:
        nonce, spec = random.token_hex(8), self.run.fleet.host(name)
        script = health.script(spec, nonce, service, tries=1)
        reply = remote.run(self.run.hosts[name], script, seconds=60)
        results = health.parse(spec, reply.stdout, nonce, service)
        return [HealthSeen(name, one.label, one.well, one.seconds, one.detail) for one in results]

    def _errors(self, way: Way, member: str, since: str) -> tuple[str, ...]:
        units = " ".join(f"-u {unit}" for unit in way.units)
        after = shlex.quote(f"--after-cursor={since}")
        script = f"journalctl -q --no-pager -o cat -p err {after} {units} | tail -n 3 | cut -c1-200\n"
        reply = remote.run(self.run.hosts[member], script, seconds=60)
        return tuple(self.run.masker(line) for line in reply.stdout if line.strip())

    def leader(self, way: Way, member: str, *, wait: bool = False) -> str | None:
        """Who leads now; None where nobody does or it cannot be told. wait: `before_seconds` for a failover to end."""
        if not way.cluster:
            return None
        until = time.monotonic() + self.settings.before_seconds
        while (found := self.view(way, member).leader) is None and wait and time.monotonic() < until:
            time.sleep(self.settings.read_interval)
        return found

    def reasons(self, way: Way, view: View, *, after: bool, declared: bool) -> list[tuple[str, str]]:
        """(gate, why it does not hold), for all that do not."""
        found = []
        for gate in way.gates:
            asked = gate.after if after else gate.before
            if asked and gate.name not in self.skip and (gate.without or not view.out):
                found += [(gate.name, why) for why in gate.why_not(view)]
        if after and declared and not found and DECLARED not in self.skip:
            found += [(DECLARED, why) for why in self._differs(way, view.member)]
        return found

    def _differs(self, way: Way, member: str) -> list[str]:
        self.run.look(member)
        return [
            f"{member}: {step.key}: {step.summary}"
            for step in self.run.steps(member)
            if set(units_of(step)) & set(way.units)
        ]

    def hold(
        self, way: Way, member: str, *, after: bool = False, out: bool = False, declared: bool = True,
        since: str | None = None, watch: float = 0.0,
    ) -> None:  # fmt: skip
        """Wait until all gates hold; with `watch`, see that they go on holding for so many seconds.

        A watched member is not judged by a failover that happens meanwhile: that has `before_seconds` to end.

        Raises:
            FleetError: which gate did not hold, and what was seen.
        """
        until = time.monotonic() + (self.settings.after_seconds if after else self.settings.before_seconds)
        watched = time.monotonic() + watch
        wanted, good, lapses = (self.settings.reads, 0, 0) if not watch else (1, 0, 0)
        failed: list[tuple[str, str]] = []
        failover = _Failover()
        while good < wanted or (watch and time.monotonic() < watched):
            begun = time.monotonic()
            try:
                view = self.view(way, member, out=out, since=since)
                # The look at the whole member costs most, so it is only the last word.
                last = good + 1 >= wanted and not watch
                failed = self.reasons(way, view, after=after, declared=declared and last)
                failover.seen(view.leader, begun, well=not failed)
            except (FleetError, FleetErrors) as error:
                failed = [("answers", str(error))]
            good, lapses = (good + 1, 0) if not failed else (0, lapses + 1)
            if not failed and not after:
                self.usual.update({(one.host, one.label): one.seconds for one in view.health})
            if not watch:
                over = time.monotonic() >= until
            elif failover.since is None:
                over = lapses >= self.settings.reads
            else:
                over = begun - failover.since >= self.settings.before_seconds
            if failed and over:
                raise _refused(way, member, failed, after=after, watch=watch)
            time.sleep(max(0.0, self.settings.read_interval - (time.monotonic() - begun)))


def _refused(way: Way, member: str, failed: list[tuple[str, str]], *, after: bool, watch: float) -> FleetError:
    gates = ", ".join(dict.fromkeys(name for name, _ in failed))
    what = "while it was watched" if watch else "after its restart" if after else "before it was touched"
    return FleetError(
        host=member,
        subject=f"{way.name}, {what} (gate {gates})",
        found="; ".join(dict.fromkeys(why for _, why in failed)),
        expected="every member of the service to be well",
        hint="" if after or watch else "nothing was changed on it; mend that first, then roll again",
    )
