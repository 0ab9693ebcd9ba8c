"""`fleet lab`: the lab from the command line (also: python -m lab.cli)."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from types import TracebackType
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from lab import inside, lifecycle, ssh, teardown
from lab.errors import LabError
from lab.progress import Event
from lab.spec import LabSpec

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Real Debian hosts on this machine, to try a fleet on.

A lab is the hosts of `inventories/NAME/lab.toml`: systemd containers on a bridge, bare as a cloud image
is, with sshd, their own systemd and their own disk. They start in seconds. It takes root.

**Examples**

- `fleet lab up` — bring the eight hosts of the inventory `lab` up
- `fleet lab up single` — the one host of the inventory `single`; both can be up at once
- `fleet lab list` — what runs, and how it does
- `fleet lab ssh data1` — log in, with the lab's key and the host's pinned key
- `fleet lab exec data1 -- systemctl --failed` — without ssh: works when its network does not
- `fleet lab kill data1` and `fleet lab start data1` — cut its power, give it back
- `fleet lab reset data1` — bare again
- `fleet lab down` — all gone: hosts, their disks, the bridge, every setting that was changed

Log in as `root`, as `deploy` (sudo without password) or as `nosudo` (no sudo).
""",
)

Inventory = Annotated[
    str,
    typer.Option("--inventory", "-i", metavar="NAME", help="A name under inventories/, or a folder's path."),
]
Host = Annotated[str, typer.Argument(metavar="HOST", help="A host's name, as in lab.toml.")]
Positional = Annotated[
    str | None, typer.Argument(metavar="[INVENTORY]", help="A name under inventories/, or a folder's path.")
]
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """One clear message instead of a traceback; exit code 1."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LabError as error:
            err.print(f"[bold red]error[/] {escape(str(error))}", highlight=False)
            raise typer.Exit(1) from None
        except OSError as error:
            err.print(f"[bold red]error[/] this machine: {escape(str(error))}", highlight=False)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print("interrupted: `fleet lab up` goes on from here, `fleet lab down` removes all")
            raise typer.Exit(130) from None

    return wrapper


class _Show(AbstractContextManager["_Show"]):
    """Progress: a live table in a terminal, a line for each event elsewhere."""

    def __init__(self) -> None:
        self._rows: dict[str, Event] = {}
        self._live = Live(self._table(), console=out, refresh_per_second=8) if out.is_terminal else None

    def __enter__(self) -> _Show:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        if self._live is None:
            out.print(f"{event.seconds:6.1f} s  {event.host or 'lab'}: {event.text}", markup=False, highlight=False)
            return
        self._rows[event.host or "lab"] = event
        self._live.update(self._table())

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, event in self._rows.items():
            mark = "[green]✓[/]" if event.done else "[yellow]…[/]"
            table.add_row(mark, name, escape(event.text), f"[dim]{event.seconds:.1f} s[/]")
        return table


def _spec(positional: str | None, option: str) -> LabSpec:
    if positional and option != "lab" and positional != option:
        raise LabError(positional, f"two inventories: {positional} and {option}", "one")
    return LabSpec.load(positional or option)


@app.command()
@guarded
def up(
    inventory: Positional = None,
    option: Inventory = "lab",
    host: Annotated[list[str] | None, typer.Option("--host", help="Only this host; may be repeated.")] = None,
    install: Annotated[
        bool,
        typer.Option("--install", envvar="FLEET_LAB_INSTALL", help="Install missing tools with apt-get."),
    ] = False,
) -> None:
    """Bring the lab's hosts up and wait until they answer on ssh.

    The first time makes the base image (about a minute). Hosts that run are left alone, stopped ones go on
    with their disk: done twice, it changes nothing.

    Examples: `fleet lab up`, `fleet lab up single`, `fleet lab up --host data1 --host web1`
    """
    spec = _spec(inventory, option)
    with _Show() as show:
        result = lifecycle.up(spec, host, show, install=install)
    text = f"{len(result.started)} started, {len(result.already)} already running, {result.seconds:.1f} s"
    out.print(f"lab {spec.name}: {text}", highlight=False)


@app.command()
@guarded
def down(
    inventory: Positional = None,
    option: Inventory = "lab",
    everything: Annotated[bool, typer.Option("--all", help="Every lab that is up.")] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Power off in order and keep the disks: the next `up` goes on with them."),
    ] = False,
) -> None:
    """Take the lab down: no process, mount, interface or changed setting stays.

    The hosts' disks go too, unless --keep. Keys, snapshots and downloaded packages stay. It also cleans up
    after an `up` that was interrupted.

    Examples: `fleet lab down`, `fleet lab down single --keep`, `fleet lab down --all`
    """
    specs = teardown.all_up() if everything else [_spec(inventory, option)]
    for spec in specs:
        with _Show() as show:
            teardown.down(spec, show, keep=keep)
        out.print(f"lab {spec.name}: down", highlight=False)


@app.command("list")
@guarded
def list_(
    inventory: Positional = None,
    option: Inventory = "lab",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """The lab's hosts: state, address, what systemd says, memory of their processes.

    Examples: `fleet lab list`, `fleet lab list single --json`
    """
    states = lifecycle.list_hosts(_spec(inventory, option))
    if as_json:
        typer.echo(json.dumps([asdict(state) for state in states], indent=2))
        return
    if not out.is_terminal:
        for s in states:
            typer.echo(f"{s.name}\t{s.address}\t{s.state}\t{s.systemd}\t{s.memory_mib:.0f} MiB")
        return
    table = Table("host", "address", "state", "systemd", "pid", "memory", box=None, header_style="bold")
    for s in states:
        colour = "green" if s.state == "running" else "dim"
        memory = f"{s.memory_mib:.0f} MiB" if s.pid else "-"
        table.add_row(s.name, s.address, f"[{colour}]{s.state}[/]", s.systemd, str(s.pid or "-"), memory)
    out.print(table)


@app.command("ssh", context_settings=_PASS_ON)
@guarded
def ssh_(
    ctx: typer.Context,
    host: Host,
    option: Inventory = "lab",
    user: Annotated[str, typer.Option("--user", "-u", help="root, deploy or nosudo.")] = "root",
) -> None:
    """Log in to a host (or run a command there) with the lab's key; the host's key is pinned.

    Options come before the host's name.

    Examples: `fleet lab ssh data1`, `fleet lab ssh -u deploy data1 uptime`
    """
    argv = [*ssh.argv(LabSpec.load(option), host, user), *ctx.args]
    # No shell is wanted.
    os.execvp(argv[0], argv)  # noqa: S606  # nosec B606


@app.command("exec", context_settings=_PASS_ON)
@guarded
def exec_(ctx: typer.Context, host: Host, option: Inventory = "lab") -> None:
    """Run a command as root in a host, without ssh; its exit code becomes this one's.

    It enters the host's namespaces, so it works whatever the state of sshd and of the firewall there.

    Examples: `fleet lab exec data1 -- journalctl -b -p err`, `fleet lab exec data1 -- sh -c 'id; pwd'`
    """
    argv = ctx.args[1:] if ctx.args[:1] == ["--"] else ctx.args
    code = inside.attached(LabSpec.load(option), host, argv or ["bash", "-l"], _terminal(os.environ))
    raise typer.Exit(code if code >= 0 else 128 - code)


def _terminal(environ: Any) -> dict[str, str]:
    return {"TERM": environ["TERM"]} if "TERM" in environ else {}


def _each(names: Iterable[str], inventory: str, work: Callable[[LabSpec, str], object], done: str, not_: str) -> None:
    spec = LabSpec.load(inventory)
    for name in names:
        changed = work(spec, name)
        out.print(f"{name}: {not_ if changed is False else done}", highlight=False)


Hosts = Annotated[list[str], typer.Argument(metavar="HOST...", help="Hosts' names, as in lab.toml.")]


@app.command()
@guarded
def stop(host: Hosts, option: Inventory = "lab") -> None:
    """Power hosts off in order; their disks stay. Example: `fleet lab stop data1`"""
    _each(host, option, lifecycle.stop, "powered off", "did not run")


@app.command()
@guarded
def kill(host: Hosts, option: Inventory = "lab") -> None:
    """Cut hosts' power: all in them dies at once, their disks stay. Example: `fleet lab kill data1`"""
    _each(host, option, lifecycle.kill, "power cut", "did not run")


@app.command()
@guarded
def start(host: Hosts, option: Inventory = "lab") -> None:
    """Start stopped hosts and wait until they answer. Example: `fleet lab start data1`"""
    _each(host, option, lifecycle.start, "answers on ssh", "runs already")


@app.command()
@guarded
def reset(host: Hosts, option: Inventory = "lab") -> None:
    """Make hosts bare again: all that was installed there goes, keys and addresses stay.

    Example: `fleet lab reset data1 data2`
    """
    _each(host, option, lifecycle.reset, "bare", "")


if __name__ == "__main__":
    app()
