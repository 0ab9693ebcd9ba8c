"""What a person sees of certificates."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.procedures.pki.renew import Renewed
from deploy.procedures.pki.revoke import Revoked
from deploy.procedures.pki.status import BAD, DUE, Report
from deploy.procedures.pki.verify import Verified
from deploy.trust.exchange import Request
from deploy.trust.following import Wanted
from deploy.view import show_errors

COLOURS = {BAD: "red", DUE: "yellow"}


def _state(state: str, why: str) -> str:
    colour = COLOURS.get(state, "green")
    return f"[{colour}]{state}[/{colour}]" + (f" {escape(why)}" if why else "")


def show_status(console: Console, err: Console, report: Report) -> None:
    """Authorities, then certificates, then what could not be asked."""
    table = Table(box=None, header_style="dim")
    for column in ("CA", "days", "issues", "serial", "list", "revoked", "key sealed to", "state"):
        table.add_column(column, overflow="fold")
    for one in report.roots:
        table.add_row(
            escape(one.name), str(one.days), "yes" if one.issues else "no", one.serial,
            f"{one.list_number}, {one.list_days} days", str(one.revoked), escape(", ".join(one.sealed_to)),
            _state(one.state, one.why),
        )  # fmt: skip
    console.print(table)
    for one in report.roots:
        if one.signs_for:
            console.print(f"{escape(one.name)} signs for {escape(', '.join(one.signs_for))} alone", highlight=False)
    if report.phase:
        console.print(f"[yellow]the CA changes[/yellow]: phase {report.phase}; fleet pki roll-ca goes on")
    console.print()
    table = Table(box=None, header_style="dim")
    for column in ("host", "certificate", "role", "owner", "ports", "days", "serial", "issuer", "state"):
        table.add_column(column, overflow="fold")
    for leaf in report.leaves:
        table.add_row(
            leaf.host, escape(leaf.name), escape(leaf.role), leaf.owner, ", ".join(map(str, leaf.ports)),
            str(leaf.days), leaf.serial, escape(leaf.issuer), _state(leaf.state, leaf.why),
        )  # fmt: skip
    console.print(table)
    bad, due = (sum(leaf.state == state for leaf in report.leaves) for state in (BAD, DUE))
    console.print(f"{len(report.leaves)} certificates, {bad} bad, {due} due.", highlight=False)
    for text in report.untold:
        err.print(f"[red]error[/red] {escape(text)}", soft_wrap=True, highlight=False)


def show_verified(console: Console, err: Console, found: Verified) -> None:
    table = Table(box=None, header_style="dim")
    for column in ("host", "service", "port", "serves", "state"):
        table.add_column(column, overflow="fold")
    for one in found.ports:
        state = "[green]well[/green]" if one.well else f"[red]not well[/red] {escape(one.found)}"
        table.add_row(one.host, one.service, str(one.port), one.served, state)
    console.print(table)
    well = sum(one.well for one in found.ports)
    console.print(f"{well} of {len(found.ports)} ports serve what lies on their disk, good under the CA.")
    show_errors(err, found.errors)


def show_renewed(console: Console, err: Console, found: Renewed) -> None:
    for host, name in found.certificates:
        console.print(f"renewed {escape(host)}: {escape(name)}", highlight=False)
    for step in found.outcome.pending:
        text = escape(f"{step.host}: {step.key}: {step.summary}")
        console.print(f"[red]{step.waits}[/red] {text}", soft_wrap=True)
    show_errors(err, found.errors)
    ports = found.verified.ports
    well = sum(one.well for one in ports)
    made = len(found.certificates)
    console.print(f"{made} renewed; {well} of {len(ports)} ports serve what lies on their disk.", highlight=False)


def show_requests(console: Console, found: Iterable[Request], following: Wanted | None) -> None:
    for line in [*(one.line for one in found), *([following.line] if following else [])]:
        console.print(escape(line), highlight=False, soft_wrap=True)


def show_revoked(console: Console, err: Console, found: Revoked) -> None:
    for one in found.taken:
        text = "" if one.fresh else " (it was already)"
        console.print(f"revoked {one.serial} {escape(one.subject)}{text}", highlight=False, soft_wrap=True)
    for host, name in found.renewed:
        console.print(f"renewed {escape(host)}: {escape(name)}", highlight=False)
    show_errors(err, found.errors)
    if found.proven:
        console.print(f"{found.proven} ports were seen to refuse what is on the list.", highlight=False)
