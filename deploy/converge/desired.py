"""From a fleet and what is known of it to the desired state of each host."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.errors import FleetError
from deploy.model.catalog import CATALOG, Service
from deploy.model.fleet import Cluster, Context, Fleet, HostSpec, Live, Standing, waivers
from deploy.model.observed import Snapshot
from deploy.model.profiles import REFERENCE, Profile
from deploy.model.resources import STAMP_TOOL, Directory, File, HostState, Package, Parameter, Resource, Unit
from deploy.model.secrets import Credential, SecretSpec
from deploy.model.ways import Way
from deploy.roles import gates

ROOT = Path(__file__).resolve().parents[2]
HEADER = "Managed by fleet: a change made here by hand is undone by the next apply."


class Role(Protocol):
    """What a module in deploy.roles offers. Only `desired` is required."""

    SECRETS: Mapping[str, SecretSpec]

    def desired(self, ctx: Context) -> Iterable[Resource]: ...

    def clusters(self, ctx: Context, seen: Mapping[str, Snapshot]) -> Mapping[str, Cluster]: ...

    def standings(self, ctx: Context, seen: Mapping[str, Snapshot]) -> Iterable[Standing]: ...

    def ways(self, ctx: Context) -> Iterable[Way]: ...


@cache
def role(service: Service) -> Role:
    return cast(Role, importlib.import_module(f"deploy.roles.{service.module or service.name}"))


def secret_specs(profile: Profile = REFERENCE) -> dict[str, SecretSpec]:
    """Every secret that some role of the profile needs."""
    specs: dict[str, SecretSpec] = {}
    for service in profile.services:
        specs.update(getattr(role(service), "SECRETS", {}))
    return specs


@cache
def _environment(root: Path) -> Environment:
    # Not HTML: these are configuration files, and what goes in is validated by the settings' types.
    return Environment(  # noqa: S701  # nosec B701
        loader=FileSystemLoader(root),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **values: object) -> str:
    """The template `name` below templates/, with these values and the header line.

    Raises:
        FleetError: it does not exist, has an error, or wants a value that it was not given.
    """
    try:
        return _environment(ROOT / "templates").get_template(name).render(header=HEADER, **values)
    except FleetError:
        raise
    except Exception as error:  # an expression in a template can raise anything
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = getattr(error, "lineno", None) or next((one.lineno for one in frames if one.filename.endswith(name)), 0)
        raise FleetError(
            subject=f"templates/{name}" + (f", line {line}" if line else ""),
            found=f"{type(error).__name__}: {getattr(error, 'message', None) or error or name}",
            expected="a template that renders with the values of its role",
            hint="nothing was changed; correct the template and run plan again",
        ) from None


@cache
def tree(name: str) -> Mapping[str, bytes]:
    """The files below files/NAME, by relative path."""
    base = ROOT / "files" / name
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in sorted(base.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(".pyc")
    }


def context(
    fleet: Fleet, host: HostSpec, live: Live, authority: str, secret: Callable[[str], str], revocations: str = "",
    revocations_due: str = "", accepted: Callable[[str], tuple[Credential, ...]] | None = None,
) -> Context:  # fmt: skip
    return Context(
        fleet=fleet, host=host, live=live, authority=authority, secret=secret, render=render, files=tree,
        revocations=revocations, revocations_due=revocations_due, accepted=accepted,
    )  # fmt: skip


def host_state(ctx: Context) -> HostState:
    """Everything desired of one host: packages first, then role by role in the catalog's order, phase by phase.

    Raises:
        FleetError: two roles want the same thing differently.
    """
    wanted: dict[str, Resource] = {}
    for service in ctx.host.services:
        for item in _expand(role(service).desired(ctx)):
            resource = replace(item, role=service.name)
            earlier = wanted.setdefault(resource.key, resource)
            if earlier is not resource and replace(earlier, role="") != item:
                raise FleetError(
                    host=ctx.host.name,
                    subject=resource.key,
                    found=f"two roles that want it differently: {earlier.role} and {service.name}",
                    expected="one owner for each thing",
                    hint="this is an error in deploy/roles",
                )
    rank = {service.name: position for position, service in enumerate(CATALOG)}
    kept = _kept(_pinned(ctx, wanted.values()))
    ordered = sorted(kept, key=lambda item: (item.order != 0, rank[item.role], item.order))
    return HostState(ctx.host.name, tuple(ordered), waivers(ctx.host))


def _pinned(ctx: Context, resources: Iterable[Resource]) -> Iterable[Resource]:
    """Packages with the versions that the inventory pins, and the rolling units that run from them."""
    pins = ctx.settings.packages.pins
    runs: dict[str, list[str]] = {}
    for way in ways(ctx):
        if way.source:
            runs.setdefault(way.source, []).extend(way.units)
    for item in resources:
        if isinstance(item, Package):
            units = tuple(runs.get(item.origin, ()))
            yield replace(item, version=item.version or pins.get(item.origin), units=units)
        else:
            yield item


def unknown_pins(fleet: Fleet, state: Callable[[str], HostState]) -> list[FleetError]:
    """Pins of packages that no host of the fleet has. state: host -> what is desired of it."""
    pinned = {pin for host in fleet.hosts for pin in host.settings.packages.pins}
    if not pinned:
        return []
    known = {item.origin for host in fleet.hosts for item in state(host.name).resources if isinstance(item, Package)}
    return [
        FleetError(
            subject="packages.pins", found=repr(pin),
            expected=f"source packages of this fleet: {', '.join(sorted(known))}",
            hint="apt-cache show PACKAGE names the source of a package",
        )
        for pin in sorted(pinned - known)
    ]  # fmt: skip


def _kept(resources: Iterable[Resource]) -> Iterable[Resource]:
    """Files that rolling units load at their start know them: what was loaded before is kept for `roll`."""
    every = list(resources)
    loaders: dict[str, list[str]] = {}
    for item in every:
        if isinstance(item, Unit) and item.rolling:
            for path in (*item.restart_files, *item.start_files):
                loaders.setdefault(path, []).append(item.name)
    for item in every:
        if isinstance(item, File) and item.path in loaders:
            yield replace(item, kept_for=tuple(loaders[item.path]))
        elif isinstance(item, Parameter) and item.writes:
            units = dict.fromkeys(unit for path in item.writes for unit in loaders.get(path, ()))
            yield replace(item, kept_for=tuple(units))
        else:
            yield item


def ways(ctx: Context) -> tuple[Way, ...]:
    """How the services of a host are rolled, in their order; a role that says nothing has a plain way."""
    found: list[Way] = []
    for service in ctx.host.services:
        said = tuple(getattr(role(service), "ways", lambda _: ())(ctx))
        found += said
        named = {unit for way in said for unit in way.units}
        left = tuple(unit for unit in service.units_on(ctx.release) if unit not in named)
        found += [
            Way(
                name=unit.removesuffix(".service"), service=service.name, units=(unit,),
                gates=gates.usual(service.name, (unit,)),
            )
            for unit in left
        ]  # fmt: skip
    return tuple(replace(way, zone=ctx.host.settings.machine.zone) for way in found)


def _expand(resources: Iterable[Resource]) -> Iterable[Resource]:
    """Adds to each unit that loads files the drop-in and the list by which what it has loaded is known."""
    for item in resources:
        yield item
        if isinstance(item, Unit) and (item.reload_files or item.restart_files):
            lines = [f"start {path}\n" for path in item.restart_files]
            lines += [f"reload {path}\n" for path in item.reload_files]
            yield File(path=f"/etc/fleet/stamps/{item.name}", content="".join(lines))
            text = f"# {HEADER}\n[Service]\nExecStartPre=+{STAMP_TOOL} %n start\n"
            if item.reload_files:
                text += f"ExecReload=+{STAMP_TOOL} %n reload\n"
            yield File(path=f"/etc/systemd/system/{item.name}.d/50-fleet-stamp.conf", content=text)
            yield Directory(path=f"/etc/systemd/system/{item.name}.d")


def standings(fleet: Fleet, contexts: Mapping[str, Context], seen: Mapping[str, Snapshot]) -> list[Standing]:
    """How every member of every cluster stands, by the last look; one that was not looked at does not answer."""
    found: list[Standing] = []
    for service in fleet.services():
        if hasattr(role(service), "standings"):
            found += role(service).standings(contexts[fleet.members(service.name)[0].name], seen)
    return found


def live(fleet: Fleet, contexts: Mapping[str, Context], seen: Mapping[str, Snapshot]) -> Live:
    """Who leads each cluster and who holds nothing, asked of the members.

    Raises:
        FleetError: members contradict one another, or one of them could not be asked (a role's `clusters` says which).
        Unsettled: they may agree in a moment.
    """
    first = Live.first_boot(fleet)
    leaders, empty = dict(first.leaders), dict(first.empty)
    otherwise, links = dict[str, frozenset[str]](), dict[str, str]()
    proven, encrypted = set(), set(first.encrypted)
    for service in fleet.services():
        if not service.replicated:
            continue
        members = fleet.members(service.name)
        for name, cluster in role(service).clusters(contexts[members[0].name], seen).items():
            if cluster.leader is not None:
                leaders[name], empty[name] = cluster.leader, cluster.empty
                proven.add(name)
                if not cluster.encrypted:
                    encrypted.discard(name)
            otherwise[name], links[name] = cluster.otherwise, cluster.links
    return Live(leaders, frozenset(proven), empty, frozenset(encrypted), otherwise, links)
