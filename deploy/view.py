"""What a person sees: plans, live progress, outcomes, health. Plain lines where there is no terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from deploy.converge.health import Result
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.cleartext import cleartext
from deploy.model.fleet import Fleet, Standing
from deploy.model.resources import StepClass
from deploy.procedures.audit import Found
from deploy.procedures.logs import Logs
from deploy.procedures.roll.order import Action, Deed
from deploy.procedures.roll.steps import Rolled
from deploy.trust.rotation import Phase

SIGNS = {
    StepClass.CREATE: ("+", "green"),
    StepClass.WRITE: ("~", "yellow"),
    StepClass.HOT: ("*", "cyan"),
    StepClass.RELOAD: ("@", "magenta"),
    StepClass.RESTART: ("!", "red"),
}

GOOD_ENDS = frozenset({"done", "nothing", "aborted"})


def sign(step: Step) -> str:
    mark, colour = SIGNS[step.step]
    return f"[{colour}]{mark}[/{colour}]"


def show_plan(console: Console, plan: Mapping[str, list[Step]], diffs: Mapping[tuple[str, str], str]) -> None:
    """Per host what differs, then the totals."""
    for host, steps in plan.items():
        if not steps:
            continue
        console.print(f"[bold]{host}[/bold]")
        for step in steps:
            left = " left to roll" if step.waits == "restart pending" else " left to who has the CA's key"
            note = f"  ({step.waits}:{left})" if step.pending else ""
            console.print(f"  {sign(step)} {escape(step.key)}  [dim]{escape(step.summary)}{note}[/dim]", soft_wrap=True)
            for line in diffs.get((host, step.key), "").splitlines():
                colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim")
                console.print(f"      [{colour}]{escape(line)}[/{colour}]", soft_wrap=True, highlight=False)
    console.print(totals(plan), highlight=False)


def totals(plan: Mapping[str, list[Step]]) -> str:
    """One line: how many of each class on how many hosts."""
    steps = [step for host_steps in plan.values() for step in host_steps]
    if not steps:
        return f"No changes: {len(plan)} hosts are what the inventory says."
    counts = Counter(step.step for step in steps)
    hosts = sum(1 for host_steps in plan.values() if host_steps)
    parts = ", ".join(f"{counts[kind]} to {kind.value}" for kind in StepClass if counts[kind])
    pending = sum(step.pending for step in steps)
    return f"Plan: {parts} on {hosts} of {len(plan)} hosts" + (f"; {pending} wait for roll" if pending else "") + "."


def show_changing(console: Console, changing: Mapping[str, Phase]) -> None:
    """Secrets that are on their way to another value: apply brings their phase, not the next one."""
    for phase in Phase:
        if names := [name for name, own in changing.items() if own is phase]:
            text = f"secrets in the phase {phase.value}: {', '.join(names)}; fleet secrets rotate goes on"
            console.print(f"[yellow]{escape(text)}[/yellow]", soft_wrap=True, highlight=False)


def show_waivers(console: Console, fleet: Fleet) -> None:
    """What the inventory declares its hosts unable to take; the same on several hosts in one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for host in fleet.hosts:
        for waiver in host.settings.waivers:
            found.setdefault((waiver.what, waiver.why), []).append(host.name)
    for (what, why), hosts in found.items():
        where = "all hosts" if len(hosts) == len(fleet.hosts) else ", ".join(hosts)
        console.print(f"[yellow]exception[/yellow] {escape(what)} on {where}: {escape(why)}", soft_wrap=True)


def show_cleartext(console: Console, fleet: Fleet) -> None:
    """What the settings let cross the network in the clear."""
    for service, words in cleartext(fleet):
        console.print(f"[yellow]warning[/yellow] {escape(service)}: {escape(words)}", soft_wrap=True)


def show_errors(console: Console, errors: Iterable[FleetError]) -> None:
    for error in errors:
        console.print(f"[red]error[/red] {escape(error.message())}", soft_wrap=True, highlight=False)


def show_status(console: Console, results: Sequence[Result]) -> None:
    """The health table, and how many are well."""
    table = Table("service", "host", "port", "endpoint", "health", "time", "detail", box=None)
    for result in results:
        state = "[green]well[/green]" if result.well else "[red]UNWELL[/red]"
        if result.degraded:
            state = "[yellow]degraded[/yellow]"
        table.add_row(
            result.label, result.host, str(result.port), result.endpoint, state, f"{result.seconds * 1000:.0f} ms",
            escape(result.detail if result.degraded or not result.well else ""),
        )  # fmt: skip
    console.print(table)
    well = sum(result.well and not result.degraded for result in results)
    console.print(f"{well} of {len(results)} checks are well.", highlight=False)


def show_standings(console: Console, standings: Sequence[Standing], untold: str) -> None:
    """Who leads, who follows, and what each says of the others."""
    table = Table("cluster", "host", "role", "state", "detail", box=None)
    for one in standings:
        state = "[green]well[/green]" if one.well else "[red]UNWELL[/red]"
        table.add_row(one.cluster, one.host, one.role, state, escape(one.detail))
    if standings:
        console.print()
        console.print(table)
    if untold:
        console.print(f"[yellow]Not every member could be asked:[/yellow] {escape(untold)}", soft_wrap=True)


def show_logs(console: Console, errors: Console, found: Logs) -> None:
    """A line each: when (UTC), where, which unit, what. Errors are red, warnings yellow; ~ marks what was stored."""
    for line in found.lines:
        when = datetime.fromtimestamp(line.time, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        colour = "red" if line.priority <= 3 else "yellow" if line.priority == 4 else "default"
        place = f"{line.host}{'~' if line.stored else ''} {line.unit.removesuffix('.service')}"
        console.print(
            f"[dim]{when}[/dim] {escape(place)}: [{colour}]{escape(line.text)}[/{colour}]", highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    for note in found.untold:
        errors.print(f"[yellow]{escape(note)}[/yellow]", highlight=False, soft_wrap=True)
    for name in found.cut:
        errors.print(f"{name}: only its newest lines are shown (--lines)", highlight=False)


def show_audit(console: Console, errors: Console, found: Found) -> None:
    """For each run and host: when (UTC), what, by whom, how it ended; then its steps with the files' hashes."""
    for one in found.records:
        colour = "green" if one.outcome in GOOD_ENDS else "red"
        who = f"{one.who} at {one.origin}" + (f" ({one.login})" if one.login else "")
        commit = one.revision[:12] + ("+" if one.dirty else "")
        console.print(
            f"[dim]{escape(one.at)}[/dim] [bold]{escape(one.host)}[/bold] {escape(one.command)} by {escape(who)} "
            f"[dim]at {escape(commit)}[/dim]: [{colour}]{escape(one.outcome)}[/{colour}]",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        for step in one.steps:
            digest = f"  sha256 {str(step['sha256'])[:12]}" if "sha256" in step else ""
            failed = "  [red]failed[/red]" if step.get("failed") else ""
            words = escape(f"{step.get('key', '?')}  {step.get('summary', '')}{digest}".rstrip())
            console.print(f"    {words}{failed}", highlight=False, soft_wrap=True)
    for note in found.untold:
        errors.print(f"[yellow]{escape(note)}[/yellow]", highlight=False, soft_wrap=True)


def show_queues(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """What waits, and what nobody could handle."""
    table = Table("queue", "purpose", "waiting", "consumers", "dead letters", box=None)
    for one in found:
        dead = f"[red]{one['dead']}[/red]" if one["dead"] else "0"
        table.add_row(one["queue"], one["purpose"], str(one["messages"]), str(one["consumers"]), dead)
    console.print(table)


def show_messages(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """Dead letters, each with the reason."""
    for one in found:
        at = one["rejected_at"]
        when = datetime.fromtimestamp(at).isoformat(" ") if at else "time unknown"
        console.print(f"[dim]{when}[/dim] [red]{escape(str(one['reason']))}[/red]", soft_wrap=True, highlight=False)
        console.print(escape(one["body"]), soft_wrap=True, highlight=False)
    if not found:
        console.print("No dead letters.")


def telling(console: Console) -> Callable[[str], None]:
    """Each step of a roll as a line, with the time."""

    def say(words: str) -> None:
        console.print(f"[dim]{datetime.now():%H:%M:%S}[/dim] {escape(words)}", soft_wrap=True, highlight=False)

    return say


def show_steps(console: Console, steps: Sequence[Deed], as_json: bool) -> None:
    """What a roll would do."""
    if as_json:
        print(json.dumps({"steps": [one.words() for one in steps]}, indent=2))
        return
    for one in steps:
        console.print(one.words(), soft_wrap=True, highlight=False, markup=False)
    if not steps:
        console.print("Nothing is owed.")


def show_rolled(console: Console, errors: Console, rolled: Rolled, as_json: bool) -> None:
    """How a roll ended."""
    if as_json:
        steps = [one.words() for one in rolled.steps]
        report = {"how": rolled.how, "steps": steps, "errors": [error.to_dict() for error in rolled.errors]}
        print(json.dumps(report, indent=2))
        return
    show_errors(errors, rolled.errors)
    done = [
        f"{count} {what}"
        for what, action in (("restarts", Action.RESTART), ("boots", Action.REBOOT))
        if (count := sum(one.action is action for one in rolled.steps)) or what == "restarts"
    ]
    words = "nothing is owed" if rolled.how == "nothing" else f"{rolled.how}, {', '.join(done)}"
    console.print(f"Roll: {words}.", highlight=False)


class Progress:
    """A live table of hosts and steps in a terminal; a line for each step elsewhere."""

    def __init__(self, console: Console, hosts: Iterable[str]) -> None:
        self._console = console
        self._rows = dict.fromkeys(hosts, ("", "", 0))
        self._live = Live(self._table(), console=console, refresh_per_second=4, transient=True)
        self._terminal = console.is_terminal

    def __enter__(self) -> Progress:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._live.stop()

    def __call__(self, host: str, step: Step, event: str) -> None:
        done = self._rows[host][2] + (event == "done")
        self._rows[host] = (step.role, step.key, done)
        if event == "done" and not self._terminal:
            line = f"{host}  {step.step.value:7}  {step.key}  {step.summary}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)
        if self._terminal:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table("host", "role", "step", "done", box=None)
        for host, (role, key, done) in self._rows.items():
            table.add_row(host, role, key, str(done))
        return table
