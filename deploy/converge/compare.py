"""Desired against seen: the steps, pure. The same function serves plan, apply, drift and the second look."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from cryptography import x509

from deploy.converge import shell
from deploy.converge.profile import key_type, profile
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model import jumps
from deploy.model import resources as want
from deploy.model.observed import Answer, FileState, Snapshot, UnitState
from deploy.model.resources import StepClass
from deploy.trust.certificates import describe, differences, parse_certificate
from deploy.trust.signing import refuse_names

Outcome = tuple[StepClass, str, str] | None
"""Step class, summary, script; None when nothing differs."""


NOTHING: Mapping[str, str] = {}


def steps(
    state: want.HostState, seen: Snapshot, authority: str, reissue: Mapping[str, str] = NOTHING, *,
    offline: bool = False,
) -> list[Step]:  # fmt: skip
    """What differs, in the order of the desired state; waived resources are left out.

    authority: the CA's certificate (PEM), from which certificates must come. reissue: serial -> why the certificate is
    not to stay. offline: its key is elsewhere, so that what it would have to sign waits.
    """
    found: list[Step] = []
    written: set[str] = set()
    for resource in state.resources:
        if any(fnmatchcase(resource.key, waiver.what) for waiver in state.waivers):
            continue
        for step in _compare(state.host, resource, seen, authority, reissue, written):
            if offline and isinstance(resource, want.Certificate | want.Revocations) and not step.script:
                found.append(replace(step, pending=True, summary=f"{step.summary} (offline CA: fleet pki requests)"))
                continue
            found.append(step)
            written |= _writes(step)
    return found


def _writes(step: Step) -> set[str]:
    """Paths whose content a step changes: what loads them is due as well, and a plan has to say so."""
    item = step.resource
    if isinstance(item, want.Revocations) and not step.script:
        return {item.path}
    if isinstance(item, want.File) and ("content" in step.summary or step.step is StepClass.CREATE or item.absent):
        return {item.path}
    if isinstance(item, want.Certificate) and not step.script:
        return {item.certificate_path, item.key_path}
    if isinstance(item, want.Parameter) and step.script:
        return set(item.writes)
    return set()


def _compare(
    host: str, resource: want.Resource, seen: Snapshot, authority: str, reissue: Mapping[str, str], written: set[str]
) -> Iterable[Step]:
    if isinstance(resource, want.Unit):
        yield from _unit(host, resource, seen, written)
    elif isinstance(resource, want.Parameter):
        yield from _parameter(host, resource, seen, written)
    elif isinstance(resource, want.Only):
        yield from _only(host, resource, seen)
    elif isinstance(resource, want.Package):
        yield from _package(host, resource, seen)
    elif isinstance(resource, want.Certificate):
        outcome = _certificate(resource, seen, authority, reissue)
        if outcome:
            yield Step(host=host, resource=resource, step=outcome[0], summary=outcome[1], script=outcome[2])
    else:
        outcome = _SIMPLE[type(resource)](resource, seen)
        if outcome:
            yield Step(host=host, resource=resource, step=outcome[0], summary=outcome[1], script=outcome[2])


def _package(host: str, item: want.Package, seen: Snapshot) -> Iterable[Step]:
    """Raises FleetError for a change of version that its server cannot take."""
    have = seen.packages.get(item.name)
    if have is None or not have.installed:
        summary = f"install {item.version or ''}".strip()
        yield Step(host=host, resource=item, step=StepClass.CREATE, summary=summary, script=shell.install(item))
    elif item.version and have.version != item.version:
        if refused := jumps.refusal(host, item.origin, have.version, item.version):
            raise refused
        serves = any(name in seen.units and seen.units[name].running for name in item.units)
        yield Step(
            host=host, resource=item, step=StepClass.RESTART if serves else StepClass.WRITE, pending=serves,
            summary=f"version {have.version} -> {item.version}", script="" if serves else shell.install(item),
            before=have.version, after=item.version,
        )  # fmt: skip
    elif have.held:
        script = f"apt-mark unhold -- {shlex.quote(item.name)}"
        yield Step(host=host, resource=item, step=StepClass.WRITE, summary="on hold -> not on hold", script=script)


def _file(item: want.File, seen: Snapshot) -> Outcome:
    have = seen.files.get(item.path)
    if item.absent:
        return (StepClass.WRITE, "remove", f"rm -f -- {shlex.quote(item.path)}") if have else None
    if have is None:
        return StepClass.CREATE, f"create {item.mode:04o} {item.owner}:{item.group}", shell.put(item)
    if item.once:
        changes = _owner_changes(have, item.owner, item.group, item.mode)
        script = shell.owner(item.path, item.owner, item.group, item.mode)
        return (StepClass.WRITE, ", ".join(changes), script) if changes else None
    if have.kind != "file":
        return StepClass.WRITE, f"{have.kind} -> file", shell.put(item)
    changes = []
    if have.sha256 != item.sha256:
        changes.append("content")
    changes += _owner_changes(have, item.owner, item.group, item.mode)
    if not changes:
        return None
    script = shell.put(item) if "content" in changes else shell.owner(item.path, item.owner, item.group, item.mode)
    return StepClass.WRITE, ", ".join(changes), script


def _revocations(item: want.Revocations, seen: Snapshot) -> Outcome:
    """No script means: sign a list first (that takes the controller)."""
    if item.due:
        kind = StepClass.WRITE if item.path in seen.files else StepClass.CREATE
        return kind, f"sign another list: {item.due}", ""
    return _file(item, seen)


def _owner_changes(have: FileState, owner: str, group: str, mode: int) -> list[str]:
    changes = []
    if (have.owner, have.group) != (owner, group):
        changes.append(f"owner {have.owner}:{have.group} -> {owner}:{group}")
    if have.mode != mode:
        changes.append(f"mode {have.mode:04o} -> {mode:04o}")
    return changes


def _directory(item: want.Directory, seen: Snapshot) -> Outcome:
    have = seen.files.get(item.path)
    script = shell.directory(item)
    if have is None:
        return StepClass.CREATE, f"create {item.mode:04o} {item.owner}:{item.group}", script
    if have.kind != "directory":
        return StepClass.WRITE, f"{have.kind} -> directory", script
    changes = _owner_changes(have, item.owner, item.group, item.mode)
    return (StepClass.WRITE, ", ".join(changes), script) if changes else None


def _link(item: want.Link, seen: Snapshot) -> Outcome:
    have = seen.files.get(item.path)
    if have and have.kind == "symbolic link" and have.target == item.target:
        return None
    was = have.target or have.kind if have else "nothing"
    return (StepClass.WRITE if have else StepClass.CREATE), f"{was} -> {item.target}", shell.link(item)


def _account(item: want.Account, seen: Snapshot) -> Outcome:
    have = seen.accounts.get(item.name)
    if have is None:
        return StepClass.CREATE, f"create, home {item.home}", shell.account(item, exists=False)
    changes = []
    if (have.home, have.shell) != (item.home, item.shell):
        changes.append(f"{have.home} {have.shell} -> {item.home} {item.shell}")
    missing, extra = set(item.groups) - have.groups, have.groups - {item.name, *item.groups}
    if missing or extra:
        changes.append(f"groups {_set(have.groups)} -> {_set({item.name, *item.groups})}")
    return (StepClass.WRITE, ", ".join(changes), shell.account(item, exists=True)) if changes else None


def _set(values: Iterable[str]) -> str:
    return ",".join(sorted(values))


_SIMPLE: dict[type[want.Resource], Callable[[Any, Snapshot], Outcome]] = {
    want.File: _file,
    want.Revocations: _revocations,
    want.Directory: _directory,
    want.Link: _link,
    want.Account: _account,
}


def _unit(host: str, item: want.Unit, seen: Snapshot, written: set[str]) -> Iterable[Step]:
    have = seen.units.get(item.name)

    def step(kind: StepClass, summary: str, script: str, pending: bool = False) -> Step:
        return Step(
            host=host,
            resource=item,
            step=kind,
            summary=summary,
            script="" if pending else script,
            pending=pending,
        )

    if have is None or have.load == "not-found":
        if not item.masked and (item.running or item.enabled):
            yield step(
                StepClass.CREATE,
                "enable and start" if item.enabled else "start",
                shell.start(item, fresh=True),
            )
        return
    yield from (step(*found) for found in _unit_file(item, have))
    if item.masked or not item.running:
        return
    if not have.running and not (item.returns and have.starting):
        yield step(StepClass.CREATE, f"{have.active} -> started", shell.start(item, fresh=False))
        return

    def owed(paths: Iterable[str]) -> list[str]:
        return [
            path
            for path in paths
            if path in written or (path in seen.files and have.stamps.get(path) != seen.files[path].sha256)
        ]

    if restart := owed(item.restart_files):
        summary = f"to load {', '.join(restart)}"
        yield step(StepClass.RESTART, summary, shell.restart(item), pending=item.rolling)
    elif reload := owed(item.reload_files):
        yield step(StepClass.RELOAD, f"to load {', '.join(reload)}", shell.reload(item))


def _unit_file(item: want.Unit, have: UnitState) -> Iterable[tuple[StepClass, str, str]]:
    """Masked, enabled, known to systemd as it is on disk, and stopped where it should be."""
    name = shlex.quote(item.name)
    is_masked = have.load == "masked" or have.file_state in {"masked", "masked-runtime"}
    if item.masked:
        if not is_masked:
            yield (
                StepClass.WRITE,
                "mask and stop",
                f"systemctl disable --now -- {name}\nsystemctl mask -- {name}",
            )
        elif have.running:
            yield StepClass.WRITE, f"{have.active} -> stopped", f"systemctl stop -- {name}"
        return
    if is_masked:
        script = f"systemctl unmask -- {name}\nsystemctl unmask --runtime -- {name}"
        yield StepClass.WRITE, "masked -> not masked", script
    starts_at_boot = have.file_state in {
        "enabled",
        "enabled-runtime",
        "static",
        "indirect",
        "alias",
        "generated",
    }
    if item.enabled and not starts_at_boot:
        yield StepClass.WRITE, f"{have.file_state or 'disabled'} -> enabled", f"systemctl enable -- {name}"
    if not item.enabled and have.file_state in {"enabled", "enabled-runtime"}:
        yield StepClass.WRITE, "enabled -> disabled", f"systemctl disable -- {name}"
    if have.needs_daemon_reload:
        yield StepClass.WRITE, "systemd has an older version of the unit", "systemctl daemon-reload"
    if not item.running and have.running:
        yield StepClass.WRITE, f"{have.active} -> stopped", f"systemctl stop -- {name}"


def _parameter(host: str, item: want.Parameter, seen: Snapshot, written: set[str]) -> Iterable[Step]:
    answer = seen.answers.get(item.query.id, Answer({}, "was not asked"))
    unit = seen.units.get(item.query.unit)
    # Whoever answers in place of a unit that does not run is a stranger.
    waits = bool(item.query.unit) and not (unit.running if unit else answer.ok)
    if waits or not answer.ok:
        if waits and item.at_start:
            return
        why = f"once {item.query.unit} runs" if waits else f"unreadable: {answer.error}"
        yield Step(
            host=host, resource=item, step=StepClass.CREATE, script=shell.set_value(item),
            summary=f"{_shown(item, item.want)} ({why})", before=why, after=_shown(item, item.want),
        )  # fmt: skip
        return
    have = answer.values.get(item.name)
    due = written.intersection(item.loads)
    if have == item.want and not due:
        return
    pending = item.step is StepClass.RESTART and item.rolling
    kind = StepClass.CREATE if have is None and item.step is not StepClass.RESTART else item.step
    summary = f"to load {', '.join(sorted(due))}" if due else f"{_shown(item, have)} -> {_shown(item, item.want)}"
    yield Step(
        host=host, resource=item, step=kind, pending=pending, script="" if pending else shell.set_value(item),
        summary=summary,
        before=_shown(item, have), after=_shown(item, item.want),
    )  # fmt: skip


def _shown(item: want.Parameter, value: str | None) -> str:
    if value is None:
        return "absent"
    if item.secret:
        return "********"
    return repr(value) if value == "" or value != value.strip() else value


def _only(host: str, item: want.Only, seen: Snapshot) -> Iterable[Step]:
    answer = seen.answers.get(item.query.id)
    if answer is None or not answer.ok:
        return
    for name in answer.values:
        if name.startswith(item.prefix) and name not in item.names:
            stray = want.Parameter(
                role=item.role, query=item.query, name=name, want=None, phase=item.phase,
                act=f"NAME={shlex.quote(name.removeprefix(item.prefix))}\n{item.act}",
            )  # fmt: skip
            yield Step(
                host=host, resource=stray, step=StepClass.WRITE, summary="remove: nobody asked for it",
                script=stray.act, before=answer.values[name], after="absent",
            )  # fmt: skip


@lru_cache(maxsize=4)
def _root(authority: str) -> x509.Certificate:
    return parse_certificate(authority)


def _certificate(item: want.Certificate, seen: Snapshot, authority: str, reissue: Mapping[str, str]) -> Outcome:
    """No script means: issue a new pair (that takes the controller, see converge.issue).

    Raises:
        FleetError: the authority may not sign for a name of it.
    """
    root = _root(authority)
    refuse_names(root, profile(item, "none"), seen.host)
    have = seen.certificates.get(item.certificate_path)
    if have is None or not have.pem:
        return StepClass.CREATE, f"issue for {item.common_name}, role {item.role_name}", ""
    try:
        info = describe(have.pem, authority)
    except FleetError as error:
        return StepClass.WRITE, f"issue again: {error.found}", ""
    reasons = []
    if info.public_key_sha256 != have.key_sha256:
        reasons.append("the key beside it is another one, or gone")
    reasons += differences(info, profile(item, info.organization or "none"))
    if info.serial in reissue:
        reasons.append(reissue[info.serial])
    kind = key_type(have.pem)
    if kind != item.key_type:
        reasons.append(f"key {kind} -> {item.key_type}")
    # A certificate that ends with its CA cannot be had for longer: that takes a new CA, not another certificate.
    now, end = datetime.now(UTC), root.not_valid_after_utc
    if info.remaining(now) < timedelta(days=item.renew_days) and info.not_after < end - timedelta(hours=1):
        reasons.append(f"ends {info.not_after:%Y-%m-%d}")
    if end <= now:
        reasons.append("its CA has ended")
    if reasons:
        return StepClass.WRITE, "issue again: " + ", ".join(reasons), ""
    changes, script = [], []
    for path, owner, group, mode in (
        (item.key_path, item.owner, item.group, 0o400),
        (item.certificate_path, "root", "root", 0o644),
    ):
        found = _owner_changes(seen.files[path], owner, group, mode) if path in seen.files else []
        if found:
            changes += [f"{path.rsplit('.', 1)[1]} {change}" for change in found]
            script.append(shell.owner(path, owner, group, mode))
    return (StepClass.WRITE, ", ".join(changes), "\n".join(script)) if changes else None
