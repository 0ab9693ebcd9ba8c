"""What a roll leaves on the hosts while it runs: its lock, and a note for each member that it has in hand.

Another controller sees them, which has neither this one's lock nor its journal.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deploy.converge import remote
from deploy.converge.engine import Run
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors
from deploy.model.resources import ROLLING
from deploy.procedures.roll import journal as journals

FOLDER = "/var/lib/fleet/roll"
LOCK = "lock"
STEPS = "steps"
"""The steps that this roll has taken on the host, the last one last."""


@dataclass(frozen=True)
class Kept:
    """A unit with earlier files on a host. `touched`: it was started after they were overwritten."""

    host: str
    unit: str
    touched: bool


@dataclass(frozen=True)
class Left:
    """What is on the hosts. `locks`: host -> who holds it; `noted`: (host, way) in hand; `last`: host -> last step."""

    locks: dict[str, dict[str, str]]
    noted: frozenset[tuple[str, str]]
    kept: tuple[Kept, ...]
    last: Mapping[str, str] = field(default_factory=dict)


def read(run: Run) -> Left:
    """Asked of all hosts at once.

    Raises:
        FleetError: one of them does not answer.
    """
    script = f"""\
cd {FOLDER} 2>/dev/null && for f in *; do
  [ ! -f "$f" ] || printf 'note\\t%s\\t%s\\n' "$f" "$(tail -n 1 "$f" | head -c 500)"
done
cd {ROLLING} 2>/dev/null && for u in *; do
  [ -d "$u" ] || continue
  at=$(systemctl show --timestamp=unix -p ActiveEnterTimestamp --value -- "$u" | tr -d '@')
  printf 'kept\\t%s\\t%s %s\\n' "$u" "${{at:-0}}" "$(cat "$u/since" 2>/dev/null || echo 0)"
done
echo end"""
    locks: dict[str, dict[str, str]] = {}
    noted: set[tuple[str, str]] = set()
    kept: list[Kept] = []
    last: dict[str, str] = {}
    replies = together(run.hosts, lambda name: remote.run(run.hosts[name], script, seconds=60))
    for name, reply in replies.items():
        if not reply.stdout or reply.stdout[-1] != "end":
            raise FleetError(
                host=name, subject=FOLDER, found="; ".join(reply.stderr[-2:]) or "no answer",
                expected="what a roll has left on the host, or nothing", hint="see that the host is well",
            )  # fmt: skip
        for line in reply.stdout[:-1]:
            kind, _, rest = line.partition("\t")
            what, _, text = rest.partition("\t")
            if kind == "kept":
                started, _, since = text.partition(" ")
                kept.append(Kept(name, what, int(started or 0) >= int(since or 0)))
            elif what == LOCK:
                locks[name] = _parsed(text)
            elif what == STEPS:
                last[name] = text
            else:
                noted.add((name, what))
    return Left(locks, frozenset(noted), tuple(kept), last)


def _parsed(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def begun(path: Path, left: Left) -> dict[str, str]:
    """What was asked of the roll that did not end, and `doing`: as its journal says, else as the hosts' locks do."""
    journal = journals.unfinished(path) or {}
    if "options" in journal:
        return {"doing": journal["doing"], **journal["options"]}
    return {"doing": "", **next(iter(left.locks.values()), {})}


def lock(run: Run, roll: str, who: str, asked: Mapping[str, str], *, take_over: bool) -> None:
    """Lock all hosts: the first alone, so that of two controllers one is first; then the others at once.

    asked: what the roll is to do, for a controller that goes on without its journal.

    Raises:
        FleetError: somebody else's roll has one of them; none is left locked by this one.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"roll": roll, "who": who, "since": since, **asked})
    put = f"printf '%s\\n' {shlex.quote(text)} >{FOLDER}/{LOCK}"
    script = f"mkdir -p {FOLDER}\n" + (
        put if take_over else f"( set -C; {put} ) 2>/dev/null || {{ cat {FOLDER}/{LOCK}; exit 1; }}"
    )
    names = list(run.hosts)
    taken: list[str] = []

    def one(name: str) -> None:
        try:
            run.do(name, "roll: lock", script, seconds=60, unseen=True)
        except FleetError as error:
            raise held(name, _parsed(error.found)) from None
        taken.append(name)

    try:
        one(names[0])
        together(names[1:], one)
    except (FleetError, FleetErrors):
        unlock(run, taken)
        raise


def held(host: str, lock: dict[str, str], last: str = "") -> FleetError:
    """last: the last step that it took on this host."""
    return FleetError(
        host=host,
        subject="roll",
        found=f"a roll of {lock.get('who', 'somebody')} since {lock.get('since', 'an unknown time')} "
        f"({lock.get('roll', 'unnamed')}) that has not ended" + (f"; its last step here: {last}" if last else ""),
        expected="no other roll",
        hint="wait for it; if its controller died: fleet roll NAME --resume goes on, --abort goes back",
    )


def unlock(run: Run, names: Iterable[str], who: str = "") -> None:
    """who: whose lock it has to be; another's stays."""
    script = f"""\
{ours(who)}rm -f -- {FOLDER}/{LOCK} {FOLDER}/{STEPS}
[ ! -d {FOLDER} ] || rmdir --ignore-fail-on-non-empty {FOLDER}"""
    together(list(names), lambda name: run.do(name, "roll: unlock", script, seconds=60, unseen=True))


def ours(who: str) -> str:
    """Shell that goes on only while the host's lock is this controller's: another may have taken the roll over."""
    if not who:
        return ""
    return (
        f"grep -qF {shlex.quote(json.dumps(who))} {FOLDER}/{LOCK} 2>/dev/null ||\n"
        f'  {{ echo "another controller has gone on with this roll: $(cat {FOLDER}/{LOCK} 2>&1)"; exit 1; }}\n'
    )


def tell(run: Run, host: str, words: str, who: str = "") -> None:
    """Say on the host what is about to be done there, for other controllers."""
    script = f"{ours(who)}printf '%s\\n' {shlex.quote(words)} >>{FOLDER}/{STEPS}"
    run.do(host, "roll: step", script, seconds=60, unseen=True)


def note(run: Run, host: str, way: str, roll: str, who: str = "") -> None:
    path = f"{FOLDER}/{way}"
    script = f"{ours(who)}printf '%s\\n' {shlex.quote(roll)} >{path}\nsync {path}"
    run.do(host, f"roll: note of {way}", script, seconds=60, unseen=True)


def forget(way: str) -> str:
    return f"rm -f -- {FOLDER}/{way}"
