"""`fleet secrets`."""

from __future__ import annotations

import getpass
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from deploy.console import Identity, Inventory, Json, out, reported
from deploy.converge.inventory import folder
from deploy.errors import FleetError
from deploy.procedures.initialise import initialise
from deploy.procedures.secrets import operators as people
from deploy.procedures.secrets import status as kept
from deploy.procedures.secrets import store
from deploy.procedures.secrets.rotate import Asked, Rotated
from deploy.procedures.secrets.rotate import rotate as rotate_secrets

CHANGES = 2
"""Exit code of status when something is under way, or known to who should not know it."""

app = typer.Typer(
    no_args_is_help=True,
    help="The inventory's secrets: encrypted at rest to the operators' SSH keys, changed without an interruption.\n\n"
    "`init` makes them, `rotate` replaces them on a running fleet, `status` says how old they are and how far a "
    "rotation is. docs/secrets.md has the procedures.",
)
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Secrets, as status names them.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A secret, as status names it.")]


@app.command("init")
def init(inventory: Inventory, identity: Identity = None) -> None:
    """Make the secrets that are missing and, the first time, the CA. What exists is kept."""
    with reported():
        made = initialise(folder(inventory), identity)
        out.print(f"{len(made.secrets)} secrets made, CA {'made' if made.authority else 'kept'}.", highlight=False)


@app.command("set")
def set_(inventory: Inventory, name: Name, identity: Identity = None) -> None:
    """Store a secret that somebody else issued, read from standard input: `secrets set NAME monitoring/mail <FILE`.

    At a terminal it is asked for, and not shown. One that the fleet's own servers check does not take the present
    one's place at once, but becomes the next value, which `rotate` brings.
    """
    with reported():
        value = getpass.getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.read()
        out.print(store.put(folder(inventory), name, value.rstrip("\r\n"), identity), highlight=False)


@app.command("show")
def show(
    inventory: Inventory, name: Name, identity: Identity = None, as_json: Json = False,
    force: Annotated[
        bool, typer.Option("--force", help="Print it although standard output is no terminal: into a pipe or file.")
    ] = False,
) -> None:  # fmt: skip
    """Print one secret, to a terminal alone: what goes into a file or pipe stays there. --force or --json do it still.

    While it changes, it is the value that clients come with at the moment.
    """
    with reported(as_json):
        found = kept.show(folder(inventory), name, identity)
        if as_json:
            print(json.dumps(asdict(found), indent=2))
            return
        if not force and not sys.stdout.isatty():
            raise FleetError(
                subject=f"secret {name}", found="standard output that is no terminal",
                expected="a terminal, where it is read and gone",
                hint="--force prints it wherever that goes; --json as a document",
            )  # fmt: skip
        print(found.value)


@app.command("status")
def status(inventory: Inventory, identity: Identity = None, as_json: Json = False) -> None:
    """Every secret: what it is for, how old, how far its rotation is, and who knows it that should not. Asks no host.

    Exit 0: all is well, 2: a rotation is under way, or something is known to a former operator.
    """
    with reported(as_json):
        report = kept.status(folder(inventory), identity)
        if as_json:
            print(json.dumps({**asdict(report), "code": report.code}, indent=2))
        else:
            _show_status(report)
        if report.code:
            raise typer.Exit(CHANGES)


def _show_status(report: kept.Report) -> None:
    table = Table(box=None, header_style="dim")
    for column in ("secret", "days", "changes", "state", "for"):
        table.add_column(column, overflow="fold")
    for one in report.secrets:
        states = [f"[yellow]phase {one.phase}[/yellow]"] if one.phase else []
        states += [f"[red]known to {escape(', '.join(one.known_to))}[/red]"] if one.known_to else []
        table.add_row(
            one.name, str(one.days), one.change, ", ".join(states) or "[green]well[/green]", escape(one.purpose)
        )
    out.print(table)
    out.print(f"sealed to: {', '.join(report.operators)}", highlight=False, markup=False, soft_wrap=True)
    for name in report.stray:
        out.print(f"{name}: no role needs it any more", highlight=False, markup=False)
    if any(one.phase for one in report.secrets):
        out.print("a rotation is under way: fleet secrets rotate goes on, --abort goes back", markup=False)
    for one in report.secrets:
        if one.known_to and one.why:
            out.print(f"{one.name}: {one.why}", highlight=False, markup=False, soft_wrap=True)
    if any(one.known_to and not one.why for one in report.secrets):
        out.print("former operators may know what is in red: fleet secrets rotate --exposed", markup=False)
    for name, who in report.authorities:
        said = f"the key of {name} could be read by {', '.join(who)}: fleet pki roll-ca"
        out.print(f"[red]{escape(said)}[/red]", soft_wrap=True)


@app.command("edit")
def edit(
    inventory: Inventory, names: Names = None, identity: Identity = None,
    editor: Annotated[str, typer.Option("--editor", help="Its command; default: $VISUAL, $EDITOR, vi.")] = "",
) -> None:  # fmt: skip
    """Open secrets in an editor, in a file that lies in memory alone, and store what was changed.

    Nothing is stored if nothing was changed, a line is none, or the editor fails. A graphical editor has to wait:
    --editor "code --wait".
    """
    with reported():
        out.print(store.edit(folder(inventory), names or [], identity, editor), highlight=False)


@app.command("rotate")
def rotate(
    inventory: Inventory, names: Names = None, identity: Identity = None, as_json: Json = False,
    everything: Annotated[bool, typer.Option("--all", help="All that can be changed without an interruption.")] = False,
    exposed: Annotated[bool, typer.Option("--exposed", help="Those that a former operator may know.")] = False,
    interrupt: Annotated[
        bool, typer.Option("--interrupt", help="Those too whose change interrupts something, at once.")
    ] = False,
    stop_after: Annotated[str, typer.Option("--stop-after", help="End with this phase: accept, use or drop.")] = "",
    abort: Annotated[bool, typer.Option("--abort", help="Change back to the values that were before.")] = False,
) -> None:  # fmt: skip
    """Give secrets other values on a running fleet; or go on with what is under way, which it does without names.

    accept: servers take both values. use: clients come with the new one. drop: servers forget the old one. Each is
    brought to every host as by apply and roll, and proven there, before the next. Stop it anywhere; run it again.
    """
    asked = Asked(tuple(names or ()), everything, exposed, interrupt)
    with reported(as_json):
        tell = (lambda _: None) if as_json else _tell
        found = rotate_secrets(inventory, asked, abort=abort, stop_after=stop_after, identity=identity, tell=tell)
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            _show_rotated(found)


def _tell(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_rotated(found: Rotated) -> None:
    if found.changed:
        _tell(f"changed: {', '.join(sorted(found.changed))}.")
    for name, why in found.untouched.items():
        _tell(f"{name} is as it was: {why}.")
    if found.left:
        waits = ", ".join(f"{name} ({phase})" for name, phase in found.left.items())
        _tell(f"next: {waits}; run it again.")


@app.command("add-operator")
def add_operator(
    inventory: Inventory,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Their public SSH key: the line, or the file that has it.")],
    identity: Identity = None,
) -> None:
    """Let one more operator open the secrets and the CA's key.

    An inventory that names its operators (base.operators) has to name this one first.
    """
    with reported():
        text = Path(key).read_text() if Path(key).is_file() else key
        _sealed(people.add(folder(inventory), text, identity))


@app.command("remove-operator")
def remove_operator(
    inventory: Inventory,
    who: Annotated[str, typer.Argument(metavar="WHO", help="The comment of their key, or the key.")],
    identity: Identity = None,
    later: Annotated[bool, typer.Option("--later", help="Do not rotate now what they could read.")] = False,
) -> None:
    """Seal everything to the other operators, and rotate what this one could read, which is all of it.

    The CA's key is replaced by `fleet pki roll-ca`, which this says and does not do.
    """
    with reported():
        found, label = people.remove(folder(inventory), who, identity)
        _sealed(found)
        _tell(f"{label} could read every secret and the CA's key, and whatever copies they kept they still can read.")
        if later:
            _tell("fleet secrets rotate --exposed gives other values to the secrets.")
        else:
            _show_rotated(rotate_secrets(inventory, Asked(exposed=True), identity=identity, tell=_tell))
        _tell("fleet pki roll-ca replaces the CA; fleet pki revoke takes back the certificates of their browser.")


@app.command("rekey")
def rekey(inventory: Inventory, identity: Identity = None) -> None:
    """Seal everything anew to the present operators: those that the inventory names, or whom it is sealed to.

    Old copies can still be opened by whom they were sealed to; another value is what `rotate` is for.
    """
    with reported():
        _sealed(people.rekey(folder(inventory), identity))


def _sealed(found: people.Sealed) -> None:
    _tell(f"{', '.join(found.files)}: sealed to {', '.join(found.operators)}.")
