"""Releases of the real judge: fetched, compared with their sha256, unpacked beside the earlier ones, then switched to.

HOME/NAME/releases/ID has one release each, and HOME/NAME/current is the link to the one in use. ID is made of what the
release's files hash to, so an inventory that names an earlier release again finds it still there: nothing is fetched,
the link goes back.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deploy.model.fleet import Context
from deploy.model.resources import (
    Delivery,
    Directory,
    Package,
    Parameter,
    Parcel,
    Phase,
    Query,
    Resource,
    StepClass,
)
from deploy.model.settings import Artifact

HOME = "/opt/omegaup-releases"
PARCELS = "/var/lib/fleet/parcel"
"""Where what the controller sends lies until it is unpacked, with the first of its sha256 behind."""
FETCH_SECONDS = 400
"""How long a host may take to fetch one file, and once more: less than a script may."""


@dataclass(frozen=True)
class Release:
    """A release on a host, and what it must hold.

    requires: paths of which at least these are in it. single: the name of its one file, where it is no archive.
    links: path in it -> target, made in it once it is unpacked (a configuration that it expects inside itself).
    foreign_links: its symbolic links may lead out of it (a root file system's are meant from its own root).
    """

    name: str
    artifacts: tuple[Artifact, ...]
    requires: tuple[str, ...]
    single: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    foreign_links: bool = False

    @property
    def id(self) -> str:
        digests = [one.sha256 for one in self.artifacts]
        return (digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest())[:16]

    @property
    def home(self) -> str:
        return f"{HOME}/{self.name}"

    @property
    def target(self) -> str:
        return f"{self.home}/releases/{self.id}"

    @property
    def current(self) -> str:
        return f"{self.home}/current"

    @property
    def file(self) -> str:
        """Names the release in use: what has loaded another is owed a restart."""
        return f"{self.home}/release"


def artifact(ctx: Context, name: str) -> tuple[Artifact, ...]:
    """What the inventory names; that it does is seen to by checks.check."""
    found = getattr(ctx.settings.upstream, name)
    if not found:
        raise LookupError(f"the inventory names no release {name}")
    return found if isinstance(found, tuple) else (found,)


def remote(one: Artifact) -> bool:
    return one.source.startswith(("http://", "https://"))


def parcel(one: Artifact) -> Parcel:
    return Parcel(one.source, one.sha256, f"{PARCELS}-{one.sha256[:16]}")


def query(release: Release) -> Query:
    return Query(
        f"release-{release.name}",
        f"printf 'unpacked\\t%s\\n' \"$([ -d {release.target} ] && echo {release.id} || echo no)\"\n"
        f"printf 'current\\t%s\\n' \"$(readlink -- {release.current} || true)\"",
    )


def unpacked(ctx: Context, release: Release) -> Iterator[Resource]:
    """The release is on the host, whole; nothing that runs has to do with it yet."""
    for name in ("curl", "xz-utils"):
        yield Package(name=name)
    for path in (HOME, release.home, f"{release.home}/releases"):
        yield Directory(path=path)
    sources = [
        {
            "url": one.source if remote(one) else "",
            "path": parcel(one).path,
            "sha256": one.sha256,
            # What is behind a question mark may be somebody's permission to fetch it.
            "shown": one.source.partition("?")[0],
        }
        for one in release.artifacts
    ]
    yield Delivery(
        query=query(release), name="unpacked", want=release.id, step=StepClass.CREATE, phase=Phase.ACCOUNTS,
        label=f"release {release.name}: unpacked",
        parcels=tuple(parcel(one) for one in release.artifacts if not remote(one)),
        act=ctx.render(
            "upstream/unpack.sh.j2", release=release, sources=sources, seconds=FETCH_SECONDS,
            requires=" ".join(map(shlex.quote, release.requires)), quote=shlex.quote,
        ),
    )  # fmt: skip


def switched(ctx: Context, release: Release) -> Parameter:
    """The link leads to it. In the phase after the one in which every host has unpacked it."""
    return Parameter(
        query=query(release), name="current", want=f"releases/{release.id}", step=StepClass.WRITE, phase=Phase.FILES,
        label=f"release {release.name}: in use", writes=(release.file,),
        act=ctx.render("upstream/switch.sh.j2", release=release, kept=ctx.settings.upstream.releases_kept),
    )  # fmt: skip


def back(release: Release) -> str:
    """Shell: the link again as the file says, which a roll has brought back."""
    return (
        f"name=$(cat {release.file})\n"
        f'[ -d {release.home}/releases/"$name" ] || {{ echo "{release.name} $name is no longer here"; exit 1; }}\n'
        f'ln -sfn releases/"$name" {release.home}/.current && mv -fT {release.home}/.current {release.current}'
    )
