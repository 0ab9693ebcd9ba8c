"""The `fleet` command."""

# gevent must replace the blocking primitives before anything else is imported: pyinfra runs hosts side by side on it.
from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
from dataclasses import asdict  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402
from rich.markup import escape  # noqa: E402

from deploy import pki_view, view  # noqa: E402
from deploy.console import Identity, Inventory, Json, Limit, err, out  # noqa: E402
from deploy.console import reported as _reported  # noqa: E402
from deploy.converge.engine import Run  # noqa: E402
from deploy.converge.inventory import folder  # noqa: E402
from deploy.converge.step import Step  # noqa: E402
from deploy.errors import FleetError  # noqa: E402
from deploy.model.cleartext import cleartext  # noqa: E402
from deploy.model.fleet import Fleet, waivers  # noqa: E402
from deploy.procedures import db, queues  # noqa: E402
from deploy.procedures.apply import apply as apply_fleet  # noqa: E402
from deploy.procedures.audit import trail as read_trail  # noqa: E402
from deploy.procedures.diffs import diffs  # noqa: E402
from deploy.procedures.logs import logs as read_logs  # noqa: E402
from deploy.procedures.people import operator as issue_operator  # noqa: E402
from deploy.procedures.pki import change as pki_change  # noqa: E402
from deploy.procedures.pki import offline as pki_offline  # noqa: E402
from deploy.procedures.pki import renew as pki_renewal  # noqa: E402
from deploy.procedures.pki import revoke as pki_revocation  # noqa: E402
from deploy.procedures.pki import status as pki_report  # noqa: E402
from deploy.procedures.pki import verify as pki_proof  # noqa: E402
from deploy.procedures.roll import reboots  # noqa: E402
from deploy.procedures.roll import run as rolls  # noqa: E402
from deploy.procedures.session import session  # noqa: E402
from deploy.procedures.status import status as ask_status  # noqa: E402
from deploy.procedures.verify import run_suite  # noqa: E402
from deploy.secrets_cli import app as secrets_app  # noqa: E402
from deploy.trust.exchange import Asked  # noqa: E402
from deploy.trust.revocation import REASONS  # noqa: E402
from lab.cli import app as lab_app  # noqa: E402

CHANGES = 2
"""Exit code of plan and drift when something differs."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Turn bare Debian hosts into the omegaUp fleet, prove that they are one, and keep them so.\n\n"
    "An INVENTORY is a name below inventories/ (lab, single, production) or a folder with an inventory.py.",
)
db_app = typer.Typer(no_args_is_help=True, help="Who takes the database's writes: see it, move it.")
queue_app = typer.Typer(no_args_is_help=True, help="What waits in the queues, and their dead letters.")
app.add_typer(lab_app, name="lab", help="Real Debian hosts on this machine.")
app.add_typer(db_app, name="db")
app.add_typer(queue_app, name="queue")
app.add_typer(secrets_app, name="secrets")
pki_app = typer.Typer(no_args_is_help=True, help="Certificates and the CA: see, prove, renew, revoke, replace.")
app.add_typer(pki_app, name="pki")


def _step(step: Step) -> dict[str, Any]:
    return {
        "host": step.host, "role": step.role, "key": step.key, "class": step.step.value, "summary": step.summary,
        "pending": step.pending, "before": step.before, "after": step.after,
    }  # fmt: skip


def _exceptions(fleet: Fleet) -> list[dict[str, str]]:
    """What the inventory declares its hosts unable to take."""
    return [{"host": host.name, "what": item.what, "why": item.why} for host in fleet.hosts for item in waivers(host)]


@app.command()
def plan(
    inventory: Inventory, limit: Limit = None, identity: Identity = None, as_json: Json = False,
    no_diff: Annotated[bool, typer.Option("--no-diff", help="Leave out the unified diffs.")] = False,
) -> None:  # fmt: skip
    """Show what apply would change, and how. Exit 0: nothing, 2: changes, 1: error.

    + create   ~ write   * hot (running value)   @ reload   ! restart
    """
    with _reported(as_json), session(inventory, limit=limit, identity=identity) as opened:
        found = opened.run.plan()
        texts = {} if no_diff or as_json else diffs(opened.run, found)
        if as_json:
            steps = [_step(step) for steps in found.values() for step in steps]
            changing = {name: phase.value for name, phase in opened.run.keys.vault.changing().items()}
            warnings = [{"service": service, "warning": words} for service, words in cleartext(opened.run.fleet)]
            found_too = {"exceptions": _exceptions(opened.run.fleet), "warnings": warnings, "secrets": changing}
            print(json.dumps({"steps": steps, **found_too}, indent=2))
        else:
            view.show_waivers(out, opened.run.fleet)
            view.show_cleartext(out, opened.run.fleet)
            view.show_changing(out, opened.run.keys.vault.changing())
            view.show_plan(out, found, texts)
        if any(found.values()):
            raise typer.Exit(CHANGES)


@app.command()
def drift(inventory: Inventory, limit: Limit = None, identity: Identity = None, as_json: Json = False) -> None:
    """Name what is no longer as the inventory says, and nothing else. Exit 0: nothing, 2: drift, 1: error."""
    plan(inventory, limit, identity, as_json, no_diff=True)


@app.command()
def apply(
    inventory: Inventory, limit: Limit = None, identity: Identity = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Make the hosts what the inventory says, then look again.

    Restarts no serving member of a replicated service: what only a restart can bring is reported as pending.
    """
    with (
        _reported(as_json),
        session(inventory, limit=limit, identity=identity, lock_for="fleet apply") as opened,
    ):
        run = opened.run
        if not as_json:
            view.show_waivers(out, run.fleet)
            with view.Progress(out, sorted(run.targets)) as progress:
                run.listener = progress
                outcome = apply_fleet(opened)
            _ends(run, "stopped" if outcome.errors else "done")
            _say_applied(outcome.done, outcome.pending, outcome.errors, opened.timings.parts, len(run.targets))
        else:
            outcome = apply_fleet(opened)
            _ends(run, "stopped" if outcome.errors else "done")
            print(
                json.dumps(
                    {
                        "done": [_step(step) for step in outcome.done],
                        "pending": [_step(step) for step in outcome.pending],
                        "errors": [error.to_dict() for error in outcome.errors],
                        "seconds": opened.timings.parts,
                    },
                    indent=2,
                )
            )
        if outcome.errors:
            raise typer.Exit(1)


def _ends(run: Run, how: str) -> None:
    if run.trail:
        run.trail.outcome = how


def _say_applied(
    done: tuple[Step, ...], pending: tuple[Step, ...], errors: tuple[FleetError, ...], seconds: dict[str, float],
    hosts: int,
) -> None:  # fmt: skip
    for step in pending:
        out.print(f"[red]{step.waits}[/red] {escape(f'{step.host}: {step.key}: {step.summary}')}", soft_wrap=True)
    view.show_errors(err, errors)
    what = f"{len(done)} steps on {len({step.host for step in done})} of {hosts} hosts" if done else "nothing to do"
    times = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    state = "stopped" if errors else "done"
    out.print(f"Apply {state}: {what}. [dim]({times})[/dim]", highlight=False)


@app.command()
def roll(
    inventory: Inventory, identity: Identity = None, as_json: Json = False,
    limit: Annotated[
        str, typer.Option("--limit", "-l", help="Only these hosts, comma-separated, when another does not answer: all "
                                                "that the owed services are rolled with must be among them."),
    ] = "",
    service: Annotated[str, typer.Option("--service", help="Only the members of this service.")] = "",
    canary: Annotated[str, typer.Option("--canary", help="The host to begin with, where it is owed.")] = "",
    dry: Annotated[bool, typer.Option("--dry", help="Print the steps that a roll would take, and take none.")] = False,
    reboot: Annotated[
        bool, typer.Option("--reboot", help="Boot the hosts anew that need it, one at a time, instead of restarts.")
    ] = False,
    hosts: Annotated[str, typer.Option("--hosts", help="With --reboot: these hosts, need or not.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a roll whose controller died.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Bring back what the members had loaded before.")] = False,
) -> None:  # fmt: skip
    """Restart what apply left pending, one member at a time, behind gates, so that nobody notices.

    The first member of each service is watched (roll.canary_seconds); if it does not hold, its earlier files come back
    and the roll stops. Exit 0: all is paid, 1: stopped or refused.
    """
    options = rolls.Options(service, canary, tuple(name for name in hosts.split(",") if name))
    kind = reboots if reboot else rolls
    with _reported(as_json):
        if resume and abort:
            raise FleetError(subject="fleet roll", found="--resume and --abort", expected="one of the two")
        again = resume or abort
        if hosts and not reboot:
            raise FleetError(subject="--hosts", found=repr(hosts), expected="--reboot with it")
        if limit and reboot:
            raise FleetError(subject="--limit", found="--reboot with it", expected="--hosts, which says what to boot")
        if dry and again:
            raise FleetError(subject="fleet roll", found="--dry with --resume or --abort", expected="--dry alone")
        lock_for = None if dry else "fleet roll"
        with session(inventory, limit=limit, identity=identity, lock_for=lock_for, look=not again) as opened:
            if dry:
                view.show_steps(out, kind.dry(opened, options), as_json)
                return
            work = rolls.resume if resume else rolls.abort if abort else kind.roll
            found = work(opened, options, (lambda _: None) if as_json else view.telling(out))
            _ends(opened.run, found.how)
        view.show_rolled(out, err, found, as_json)
        if found.errors:
            raise typer.Exit(1)


@app.command()
def status(
    inventory: Inventory, as_json: Json = False,
    wait: Annotated[float, typer.Option(help="Seconds to go on asking until all is well.", min=0)] = 0.0,
    identity: Identity = None,
) -> None:  # fmt: skip
    """Ask every health check of the catalog, and who leads and follows. Exit 0: all is well, 1: something is not."""
    with _reported(as_json):
        said = ask_status(folder(inventory), wait, identity)
        if as_json:
            checks, members = [asdict(one) for one in said.results], [asdict(one) for one in said.standings]
            report = {
                "well": said.well, "checks": checks, "members": members, "untold": said.untold,
                "exceptions": _exceptions(said.fleet),
            }  # fmt: skip
            print(json.dumps(report, indent=2))
        else:
            view.show_waivers(out, said.fleet)
            view.show_status(out, said.results)
            view.show_standings(out, said.standings, said.untold)
        if not said.well:
            raise typer.Exit(1)


@app.command()
def logs(
    inventory: Inventory,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="A service of the catalog, or a unit.")],
    as_json: Json = False,
    since: Annotated[str, typer.Option("--since", help="30min, 2h, 1d, or a moment in UTC.")] = "1h",
    lines: Annotated[int, typer.Option("--lines", "-n", help="The newest so many of each host.", min=1)] = 1000,
    limit: Annotated[str, typer.Option("--limit", "-l", help="Only these hosts, comma-separated.")] = "",
) -> None:  # fmt: skip
    """What a service said on all its hosts, in order of time. A dead host's last words come from the monitoring host.

    Exit 0: every host was read, 1: of some, lines may be missing.
    """
    with _reported(as_json):
        found = read_logs(folder(inventory), service, since, lines, limit)
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            view.show_logs(out, err, found)
        if found.untold:
            raise typer.Exit(1)


@app.command()
def audit(
    inventory: Inventory, as_json: Json = False,
    host: Annotated[str, typer.Option("--host", help="Only what was changed on this host.")] = "",
    since: Annotated[str, typer.Option("--since", help="30min, 2h, 7d, or a moment in UTC; default: all of it.")] = "",
) -> None:  # fmt: skip
    """Who changed what on the hosts, from where, when, with which revision, and how it ended; in order of time.

    Exit 0: every host was read, 1: of some, what other controllers did is missing.
    """
    with _reported(as_json):
        found = read_trail(folder(inventory), since, host)
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            view.show_audit(out, err, found)
        if found.untold:
            raise typer.Exit(1)


@app.command()
def sbom(
    inventory: Inventory,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Where to put it; default: standard output.", dir_okay=False)
    ] = None,
) -> None:
    """What is on the hosts, as a bill of materials (CycloneDX, JSON): packages with their origin, Python, files."""
    with _reported():
        # It takes a quarter of a second to load, which no other command needs.
        from deploy.procedures.sbom import sbom as read_sbom

        text = read_sbom(folder(inventory))
        if out_file:
            out_file.write_text(text)
        else:
            print(text)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def verify(context: typer.Context, inventory: Inventory) -> None:
    """Prove with testinfra, on the running hosts, that the fleet is what the catalog says. Reads only.

    What follows the inventory goes to pytest: `fleet verify production -- -k certificates -x`.
    """
    with _reported():
        raise typer.Exit(run_suite(folder(inventory), context.args))


@db_app.command("status")
def db_status(inventory: Inventory, identity: Identity = None, as_json: Json = False) -> None:
    """Each member: primary or replica, how far behind, whether commits wait for replicas. Exit 1: not all is well."""
    with _reported(as_json), db.members(inventory, identity) as found:
        standings = [one for one in found.run.standings() if one.cluster == "mysql"]
        if as_json:
            print(json.dumps({"members": [asdict(one) for one in standings]}, indent=2))
        else:
            view.show_standings(out, standings, "")
        if not all(one.well for one in standings):
            raise typer.Exit(1)


To = Annotated[str | None, typer.Option("--to", help="The member that is to take the writes.")]


@db_app.command("switchover")
def db_switchover(inventory: Inventory, to: To = None, identity: Identity = None, as_json: Json = False) -> None:
    """Move the writes to a replica, in order. Nothing is lost or done twice; writers pause for a second or two.

    Refuses unless every member answers and every replica is in step.
    """
    with _reported(as_json):
        _say_moved(db.switchover(inventory, to, identity), as_json)


@db_app.command("failover")
def db_failover(
    inventory: Inventory, to: To = None, identity: Identity = None, as_json: Json = False,
    fence: Annotated[bool, typer.Option("--fence", help="Stop and mask the old primary first.")] = False,
    fenced: Annotated[
        str, typer.Option("--fenced", metavar="HOW", help="How you know that an unreachable primary does not serve.")
    ] = "",
    without: Annotated[list[str] | None, typer.Option(help="A replica that is lost too, and what only it has.")] = None,
) -> None:  # fmt: skip
    """Replace a primary that is gone by the replica that has most.

    Refuses unless the old primary is fenced: its unit stopped and masked (--fence does it), or, where its host does
    not answer, your word for it (--fenced 'powered off by Ana'). When it is back, apply makes it a replica.
    """
    with _reported(as_json):
        _say_moved(
            db.failover(inventory, to, identity, fence=fence, fenced=fenced, without=tuple(without or ())), as_json
        )


def _say_moved(moved: db.Moved, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(moved), indent=2))
    else:
        out.print(
            f"{moved.new} takes the writes, {moved.old} no longer: {moved.pause:.1f} s, at {moved.position}.",
            highlight=False,
        )
    for note in moved.notes:
        err.print(note, highlight=False, soft_wrap=True)


QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="ContestQueue, for example.")]
Count = Annotated[int, typer.Option("--count", "-n", min=1, max=100000, help="At most so many.")]


@queue_app.command("list")
def queue_list(inventory: Inventory, identity: Identity = None, as_json: Json = False) -> None:
    """How much waits in each queue, who consumes it, and how many dead letters it has."""
    with _reported(as_json):
        found = queues.counts(inventory, identity)
        if as_json:
            print(json.dumps({"queues": found}, indent=2))
        else:
            view.show_queues(out, found)


@queue_app.command("peek")
def queue_peek(
    inventory: Inventory, queue: QueueName, count: Count = 10, identity: Identity = None, as_json: Json = False
) -> None:
    """The first dead letters of a queue, each with the reason; they stay where they are."""
    with _reported(as_json):
        found = queues.peek(inventory, queue, count, identity)
        if as_json:
            print(json.dumps({"messages": found}, indent=2))
        else:
            view.show_messages(out, found)


@queue_app.command("requeue")
def queue_requeue(inventory: Inventory, queue: QueueName, count: Count = 100000, identity: Identity = None) -> None:
    """Dead letters back into their queue, when what was in their way is mended."""
    with _reported():
        out.print(
            f"{queues.requeue(inventory, queue, count, identity)} messages are back in the queue.", highlight=False
        )


@queue_app.command("purge")
def queue_purge(
    inventory: Inventory, queue: QueueName, identity: Identity = None,
    dead: Annotated[bool, typer.Option("--dead", help="Its dead letters, not the queue itself.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:  # fmt: skip
    """Throw away all that waits in a queue, for good."""
    with _reported():
        if not yes:
            typer.confirm(f"Throw away {'the dead letters' if dead else 'all messages'} of {queue}?", abort=True)
        out.print(f"{queues.purge(inventory, queue, dead, identity)} messages are gone.", highlight=False)


@pki_app.command("status")
def pki_status(inventory: Inventory, as_json: Json = False) -> None:
    """Every certificate on every host, and the CA's own. Exit 0: all is well, 2: something is due, 1: not well.

    What is due, `fleet apply` or `fleet pki renew` does; a CA that ends, `fleet pki roll-ca`.
    """
    with _reported(as_json):
        report = pki_report.status(folder(inventory))
        if as_json:
            print(json.dumps({**asdict(report), "code": report.code}, indent=2))
        else:
            pki_view.show_status(out, err, report)
        if report.code:
            raise typer.Exit(report.code)


@pki_app.command("verify")
def pki_verify(inventory: Inventory, identity: Identity = None, as_json: Json = False) -> None:
    """Ask each TLS port of each host what it serves, and compare it with the file on the disk, the chain and the CA.

    Exit 0: every port serves what it should, 1: one does not, and what to do.
    """
    with _reported(as_json):
        found = pki_proof.verify(folder(inventory), identity)
        if as_json:
            ports, errors = [asdict(one) for one in found.ports], [error.to_dict() for error in found.errors]
            print(json.dumps({"well": found.well, "ports": ports, "errors": errors}, indent=2))
        else:
            pki_view.show_verified(out, err, found)
        if not found.well:
            raise typer.Exit(1)


@pki_app.command("renew")
def pki_renew(
    inventory: Inventory, identity: Identity = None, as_json: Json = False,
    host: Annotated[list[str] | None, typer.Option("--host", help="All certificates of this host.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All certificates of all hosts.")] = False,
) -> None:  # fmt: skip
    """New keys and certificates, then ask every port. Without options: those that are due, or were asked for before.

    Servers load them without a restart where they can; a restart that is owed is left to `fleet roll`.
    """
    with _reported(as_json):
        found = pki_renewal.renew(inventory, host or (), everything=everything, identity=identity)
        if as_json:
            document = {
                "renewed": found.certificates, "pending": [_step(step) for step in found.outcome.pending],
                "errors": [error.to_dict() for error in found.errors],
                "ports": [asdict(one) for one in found.verified.ports],
            }  # fmt: skip
            print(json.dumps(document, indent=2))
        else:
            pki_view.show_renewed(out, err, found)
        if found.errors:
            raise typer.Exit(1)


@pki_app.command("revoke")
def pki_revoke(
    inventory: Inventory,
    what: Annotated[str, typer.Argument(metavar="SERIAL|NAME", help="A serial, HOST, HOST/SERVICE, or a person.")],
    reason: Annotated[str, typer.Option(help=f"One of {', '.join(REASONS)}.")] = "unspecified",
    limit: Limit = None, identity: Identity = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Take certificates back, for good: recorded, listed, on every host, and seen to be refused at every port.

    Hosts that use one get another first. A host that was stolen goes out of the inventory before.
    """
    with _reported(as_json):
        found = pki_revocation.revoke(inventory, what, reason, limit=limit, identity=identity)
        if as_json:
            document = {
                "taken": [asdict(one) for one in found.taken], "renewed": found.renewed, "proven": found.proven,
                "pending": found.pending, "errors": [error.to_dict() for error in found.errors],
            }  # fmt: skip
            print(json.dumps(document, indent=2))
        else:
            pki_view.show_revoked(out, err, found)
        if found.errors:
            raise typer.Exit(1)


Exchange = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that is carried there and back.")]


@pki_app.command("requests")
def pki_requests(
    inventory: Inventory, directory: Exchange, identity: Identity = None,
    next_ca: Annotated[bool, typer.Option("--next-ca", help="And for the CA that is to follow this one.")] = False,
) -> None:  # fmt: skip
    """For a CA whose key is on another machine: write requests for all that hosts are owed, with keys made there."""
    with _reported():
        path, found, wanted = pki_offline.request(inventory, directory, next_ca=next_ca, identity=identity)
        pki_view.show_requests(out, found, wanted)
        count = len(found) + bool(wanted)
        out.print(f"{count} requests in {path}; next: fleet pki sign.", highlight=False, soft_wrap=True)


@pki_app.command("sign")
def pki_sign(
    directory: Exchange,
    authority: Annotated[Path, typer.Option("--ca", help="The CA's folder, with its key.", file_okay=False)],
    identity: Identity = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """On the machine that has the CA's key: show what is asked for, and sign it and a list of what is revoked."""

    def agree(found: Asked) -> None:
        pki_view.show_requests(out, found.requests, found.following)
        if not yes:
            typer.confirm(f"Sign these {len(found.requests) + bool(found.following)}?", abort=True)

    with _reported():
        path = pki_offline.sign(authority, directory, agree, identity)
        out.print(f"signed: {path}; next: fleet pki accept.", highlight=False, soft_wrap=True)


@pki_app.command("accept")
def pki_accept(inventory: Inventory, directory: Exchange, identity: Identity = None) -> None:
    """Put what came back signed where it belongs, let servers load it, and ask every port."""
    with _reported():
        found = pki_offline.accept(inventory, directory, identity=identity)
        if found.following:
            out.print(f"{found.following} is to follow; next: fleet pki roll-ca.", highlight=False, markup=False)
        if found.renewed is None:
            hosts = len({host for host, _ in found.placed})
            words = (
                f"{len(found.placed)} certificates put on {hosts} hosts; next: fleet apply, which makes what uses them."
            )
            out.print(words, highlight=False, soft_wrap=True)
            return
        pki_view.show_renewed(out, err, found.renewed)
        if found.renewed.errors:
            raise typer.Exit(1)


@pki_app.command("roll-ca")
def pki_roll_ca(
    inventory: Inventory, identity: Identity = None, as_json: Json = False,
    stop_after: Annotated[str, typer.Option("--stop-after", help="End with this phase: trust, issue or drop.")] = "",
    abort: Annotated[bool, typer.Option("--abort", help="Change back to the CA that was before.")] = False,
) -> None:  # fmt: skip
    """Replace the CA: every host trusts both, every certificate comes from the new one, the old one is dropped.

    Each phase is proven on every port of every host before the next. Stop it anywhere; run it again to go on.
    """

    def tell(line: str) -> None:
        if not as_json:
            out.print(line, highlight=False, markup=False, soft_wrap=True)

    with _reported(as_json):
        found = pki_change.roll_ca(inventory, stop_after=stop_after, abort=abort, identity=identity, tell=tell)
        if as_json:
            print(json.dumps(asdict(found), indent=2))
        else:
            rest = f"next phase: {found.phase}; run it again" if found.phase else "complete"
            out.print(f"{found.issuer} issues; {rest}.", highlight=False, markup=False)


@pki_app.command("operator")
def pki_operator(
    inventory: Inventory, name: str,
    out_file: Annotated[Path, typer.Option("--out", help="Where to put it (PKCS #12).", dir_okay=False)],
    days: Annotated[int, typer.Option(help="Its life.", min=1, max=365)] = 30,
    identity: Identity = None,
) -> None:  # fmt: skip
    """Make a key and certificate with which a person's browser opens the status page, and nothing else."""
    with _reported():
        made = issue_operator(folder(inventory), name, out_file, days, identity)
        out.print(f"{made.path} is good until {made.ends}; its password, shown only now: {made.password}",
                  highlight=False, markup=False, soft_wrap=True)  # fmt: skip


def main() -> None:
    """Entry point."""
    logging.getLogger("pyinfra").setLevel(logging.CRITICAL)
    app()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
