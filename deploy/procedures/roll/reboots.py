"""`fleet roll --reboot`: hosts are booted anew one at a time, behind the gates of all that they serve.

There is no way back from a boot: a host that does not come through its gates afterwards ends the roll, and nobody else
is touched.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from deploy.converge import boot, remote
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors, each_of
from deploy.model.fleet import Fleet
from deploy.model.ways import Way
from deploy.procedures.roll import journal as journals
from deploy.procedures.roll import notes, refusals
from deploy.procedures.roll.gates import MARK
from deploy.procedures.roll.journal import Journal
from deploy.procedures.roll.mending import mend, take_over
from deploy.procedures.roll.order import Action, Debt, Deed, Ways, zones_of
from deploy.procedures.roll.steps import MOVES, Options, Rolled, Say, Steps, leaders
from deploy.procedures.roll.taking import Hands, Moved, ways_of
from deploy.procedures.session import Session

REBOOT = "reboot"
"""Name of the note on a host that is booted anew; it holds the boot from before."""
DOING = "fleet roll --reboot"
"""As the journal calls it."""

ASK = f"""\
why=
if [ -e /run/reboot-required ]; then
  why="asked for by $(sort -u /run/reboot-required.pkgs 2>/dev/null | tr '\\n' ' ')"
elif ! systemd-detect-virt -cq; then
  newest=$(ls /boot/vmlinuz-* 2>/dev/null | sed 's|^/boot/vmlinuz-||' | sort -V | tail -n 1)
  [ -z "$newest" ] || [ "$newest" = "$(uname -r)" ] || why="runs $(uname -r), installed is $newest"
fi
noted=$(cat {notes.FOLDER}/{REBOOT} 2>/dev/null) || noted=
printf 'boot\\t%s\\nnoted\\t%s\\nwhy\\t%s\\n' "$(cat {boot.BOOT_ID})" "$noted" "$why"
"""


@dataclass(frozen=True)
class Need:
    """A host to be booted anew, and why. `boot`: the one that runs. `begun`: a roll that died had it in hand.

    `booted`: since then it was.
    """

    host: str
    why: str
    boot: str
    begun: bool = False
    booted: bool = False


def needs(session: Session, asked_for: Sequence[str]) -> list[Need]:
    """The hosts that say so, those that are asked for (where any are, no others), and those that a dead roll left.

    Raises:
        FleetError: a host does not answer.
    """
    run = session.run
    replies = together(run.hosts, lambda name: remote.run(run.hosts[name], ASK, seconds=60))
    found = []
    for host in run.fleet.hosts:
        said = dict(line.partition("\t")[::2] for line in replies[host.name].stdout if "\t" in line)
        if "why" not in said:
            raise FleetError(
                host=host.name, subject="reboot", found="; ".join(replies[host.name].stderr[-2:]) or "no answer",
                expected="whether it has to be booted anew", hint="see that the host is well",
            )  # fmt: skip
        why = "it was asked for" if host.name in asked_for else said["why"].strip() if not asked_for else ""
        if noted := said["noted"]:
            found.append(Need(host.name, "left half done", said["boot"], begun=True, booted=noted != said["boot"]))
        elif why:
            found.append(Need(host.name, why, said["boot"]))
    return found


def ordered(found: Iterable[Need], ways: Ways, leading: Mapping[str, str], canary: str = "") -> list[Need]:
    """Half done ones first, then those that lead least, the canary before them where it leads nothing.

    Between these, all hosts of one failure domain before those of the next.
    """
    hosts, zones = list(ways), zones_of(ways)

    def rank(need: Need) -> tuple[bool, int, bool, bool, str, int]:
        led = len(leads(ways[need.host], need.host, leading))
        zone = zones[need.host]
        return not need.begun, led, need.host != canary, zone != zones.get(canary), zone, hosts.index(need.host)

    return sorted(found, key=rank)


def leads(own: Iterable[Way], host: str, leading: Mapping[str, str]) -> list[Way]:
    return [way for way in own if way.cluster and leading.get(way.cluster) == host]


def lonely(fleet: Fleet, host: str, own: Iterable[Way]) -> list[str]:
    """Services of this host that no other has."""
    services = dict.fromkeys(way.service for way in own)
    return [name for name in services if [one.name for one in fleet.members(name)] == [host]]


def heirs(order: Sequence[Need], ways: Ways, leading: Mapping[str, str]) -> dict[str, str]:
    """Cluster -> who gets its lead from the first of these hosts, before that is booted.

    One that is not booted any more, else the one that is booted last: so that a lead moves twice at most, and it is
    known beforehand where it is.
    """
    first, later = order[0], [need.host for need in order[1:]]
    if first.booted:
        return {}
    found: dict[str, str] = {}
    for way in leads(ways[first.host], first.host, leading):
        if not way.moves:
            continue
        able = [
            name for name, own in ways.items()
            if name != first.host and any(one.cluster == way.cluster and not one.never_leads for one in own)
        ]  # fmt: skip
        led = [*{**leading, **found}.values()]
        stays = sorted((name for name in able if name not in later), key=led.count)
        found[way.cluster] = next(iter([*stays, *(name for name in reversed(later) if name in able)]), "")
    return found


def deeds(need: Need, own: Sequence[Way], to: Mapping[str, str], *, canary: bool) -> list[Deed]:
    """The steps for one host. to: cluster -> who gets its lead; of the others it leads none."""

    def each(action: Action, ways: Iterable[Way]) -> list[Deed]:
        return [Deed(action, need.host, way.name) for way in ways]

    found: list[Deed] = []
    if not need.booted:
        found += each(Action.BEFORE, own)
        found.append(Deed(Action.NOTE, need.host, REBOOT))
        found += [Deed(Action.HAND_OVER, need.host, way.name, to=to[way.cluster]) for way in own if way.cluster in to]
        found += each(Action.DRAIN, [way for way in own if way.drain])
        found.append(Deed(Action.REBOOT, need.host, REBOOT))
    found.append(Deed(Action.RETURN, need.host, REBOOT))
    found += each(Action.AFTER, own)
    found += each(Action.UNDRAIN, [way for way in own if way.undrain])
    if canary:
        found += each(Action.WATCH, own)
    return [*found, Deed(Action.SETTLE, need.host, REBOOT)]


def whole(found: Iterable[Need], ways: Ways, leading: Mapping[str, str], canary: str = "") -> list[Deed]:
    """All steps, if who leads stays as it is but for what the roll itself hands over."""
    steps: list[Deed] = []
    order = ordered(found, ways, leading, canary)
    while order:
        to = heirs(order, ways, leading)
        steps += deeds(order[0], ways[order[0].host], to, canary=not steps)
        leading = {**leading, **to}
        order = ordered(order[1:], ways, leading, canary)
    return [Deed(Action.LOCK), *steps, Deed(Action.FORGET), Deed(Action.UNLOCK)] if steps else []


def left(doing: str, found: notes.Left) -> bool:
    """Whether the roll that did not end was one of these. doing: as `notes.begun` has it."""
    return doing == DOING or any(way == REBOOT for _, way in found.noted)


def dry(session: Session, options: Options) -> list[Deed]:
    """The steps that `roll` would take now.

    Raises:
        FleetError: it would refuse.
    """
    _refuse(session, options)
    run = session.run
    return whole(needs(session, options.hosts), ways_of(run), leaders(run.live), options.canary)


def roll(session: Session, options: Options, say: Say = lambda _: None) -> Rolled:
    """Boot anew what needs it.

    Raises:
        FleetError, FleetErrors: it refuses to begin; or a host did not come back well: then its note stays.
    """
    _refuse(session, options)
    if not needs(session, options.hosts):
        return Rolled("nothing")
    journal = Journal.begin(session.path, DOING, **options.asked())
    rolling = _Reboots(session, options, journal, say)
    rolling.begin()
    return rolling.go()


def resume(session: Session, options: Options, journal: Journal, say: Say, found: notes.Left) -> Rolled:
    """Go on: the host in hand first, which is not booted again if it was."""
    rolling = _Reboots(session, options, journal, say, noted=found.noted)
    take_over(rolling)
    return rolling.go()


def abort(session: Session, options: Options, journal: Journal, say: Say, found: notes.Left) -> Rolled:
    """Bring the host in hand back into service; no other is touched."""
    rolling = _Reboots(session, options, journal, say, noted=found.noted)
    take_over(rolling)
    return rolling.finish()


def _refuse(session: Session, options: Options) -> None:
    run = session.run
    if options.service:
        raise FleetError(
            subject="--service", found=repr(options.service), expected="none with --reboot",
            hint="a boot takes all services of a host with it: --hosts says which hosts",
        )  # fmt: skip
    for name in options.hosts:
        refusals.known(run.fleet, "", name, option="--hosts")
    refusals.known(run.fleet, "", options.canary)
    refusals.nobody_elses(session.path, notes.read(run))
    refusals.applied(run.plan())
    refusals.paid(run.plan())


class _Reboots(Steps):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.options = replace(self.options, doing=DOING)
        self.hands = Hands(self.run, self.gates, self.journal.roll, self.journal.who, self._noticed)
        # Of this roll, also before its controller died; one that has its note still is not done.
        written = journals.read(self.session.path)
        self.done = {line["host"] for line in written if (line["event"], line.get("action")) == ("take", "SETTLE")}

    def go(self) -> Rolled:
        moves = 0
        while True:
            ways, leading = ways_of(self.run), leaders(self.run.live)
            found = self._left()
            order = ordered(found, ways, leading, self.options.canary)
            if not order:
                break
            need, own = order[0], ways[order[0].host]
            self.journal.write("owed", host=need.host, way=REBOOT, why=[need.why], booted=need.booted)
            if alone := lonely(self.run.fleet, need.host, own):
                self._noticed(f"nobody else has {', '.join(alone)}: away while {need.host} boots")
            try:
                for deed in deeds(need, own, heirs(order, ways, leading), canary=not self.done):
                    self._one(deed, need, own)
            except Moved:
                moves += 1
                if moves > MOVES:
                    return self._stop(refusals.restless(_debt(need, own[0]), own[0]), need, own)
                self._noticed(f"{need.host} has come to lead: the order is worked out again")
                with suppress(FleetError, FleetErrors):
                    self._undrain(own)
                if not need.begun:
                    self._forget_note(need.host)
                self._look()
                continue
            except (FleetError, FleetErrors) as error:
                return self._stop(error, need, own)
            self.done.add(need.host)
            self._look()
        self._end("done")
        return Rolled("done", tuple(self.taken))

    def _left(self) -> list[Need]:
        every = needs(self.session, self.options.hosts)
        return [need for need in every if need.begun or need.host not in self.done]

    def finish(self) -> Rolled:
        """What a dead roll had in hand is brought back into service."""
        ways = ways_of(self.run)
        for need in needs(self.session, ()):
            if need.begun:
                own = ways[need.host]
                for deed in deeds(need, own, {}, canary=False):
                    if deed.action in {Action.RETURN, Action.AFTER, Action.UNDRAIN, Action.SETTLE}:
                        self._one(deed, need, own)
        self._end("aborted")
        return Rolled("aborted", tuple(self.taken))

    def _stop(self, error: FleetError | FleetErrors, need: Need, own: Sequence[Way]) -> Rolled:
        """Before its boot a host is as it was. After it there is no way back, and the note stays."""
        errors = each_of(error)
        if not self._left_untouched(error) or need.begun:
            raise FleetErrors([*errors, refusals.not_back(need.host, self.session.path)]) from None
        self._undrain(own)
        self._forget_note(need.host)
        self._end("stopped")
        return Rolled("stopped", tuple(self.taken), errors)

    def _forget_note(self, host: str) -> None:
        self.run.do(host, "reboot: settle", notes.ours(self.journal.who) + notes.forget(REBOOT), unseen=True)

    def _undrain(self, own: Iterable[Way]) -> None:
        for way in own:
            self.hands.on_all(way.undrain, f"{way.name}: undrain")

    def _one(self, deed: Deed, need: Need, own: Sequence[Way]) -> None:
        """Write a step down and take it.

        Raises:
            FleetError, FleetErrors: it did not come about.
            Moved: before a boot: the host leads; nothing was done.
        """
        host, mine = need.host, notes.ours(self.journal.who)
        if deed.way != REBOOT:
            way = next(way for way in own if way.name == deed.way)
            watch = self.settings.canary_seconds / len(own) if deed.action is Action.WATCH else None
            if watch is None:
                self._take(deed, _debt(need, way), way)
                return
            self._write(deed)
            self.gates.hold(way, host, after=True, since=self.hands.started.get((host, way.name)), watch=watch)
        else:
            self._write(deed)
            match deed.action:
                case Action.NOTE:
                    path = f"{notes.FOLDER}/{REBOOT}"
                    self.run.do(host, "reboot: note", f"{mine}cat {boot.BOOT_ID} >{path}\nsync {path}", unseen=True)
                case Action.REBOOT:
                    for way in own:
                        self.hands.stays(way, host, need.begun)
                    later = "systemd-run --quiet --collect --on-active=2 --timer-property=AccuracySec=1s"
                    self.run.do(host, REBOOT, f"{mine}{later} systemctl reboot 9>&-")
                case Action.RETURN:
                    self._return(need)
                case Action.SETTLE:
                    self._forget_note(host)
                case _:
                    raise AssertionError(deed.action)
        self.journal.write("done", action=deed.action.name, host=deed.host, way=deed.way)

    def _return(self, need: Need) -> None:
        """It is back, its units are started, it is known who leads, and what a boot alone does not bring is done."""
        if not need.booted and any(one.action is Action.REBOOT and one.host == need.host for one in self.taken):
            boot.back(self.run.hosts[need.host], need.boot, self.settings.reboot_seconds)
        until = time.monotonic() + self.settings.after_seconds
        while True:
            try:
                self.run.look_all()
                break
            except (FleetError, FleetErrors):
                if time.monotonic() >= until:
                    raise
                time.sleep(self.settings.read_interval)
        mend(self.session, self.journal, self.say)
        now = remote.run(self.run.hosts[need.host], f"{MARK}\n", seconds=60).stdout[0]
        self.hands.started |= {(need.host, way.name): now for way in ways_of(self.run)[need.host]}


def _debt(need: Need, way: Way) -> Debt:
    return Debt(need.host, way.name, way.units, (need.why,), need.begun)
