"""What was deployed, as a software bill of materials (CycloneDX): asked of the hosts, not of the inventory.

For each host: every Debian package with where it came from, the Python distributions that the services see, and the
application's files by their hashes. No secrets are needed, and none are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from pyinfra.api import Config, State
from pyinfra.context import ctx_state

from deploy.converge import remote
from deploy.converge.audit import revision
from deploy.converge.inventory import connect_one, load
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.roles.backend import HOME

SECONDS = 180
APPLICATION = "/opt/omegaup"
TOOLS = "/usr/local/lib/fleet"
UNKNOWN = "unknown"
"""Origin of a version that no package source of the host has any more, or ever had."""

PACKAGE = "\\t".join(
    ("package", "${db:Status-Abbrev}", "${binary:Package}", "${Version}", "${Architecture}", "${source:Package}",
     "${source:Version}"),
)  # fmt: skip
SCRIPT = f"""\
export LC_ALL=C
. /etc/os-release
printf 'os\\t%s\\t%s\\n' "$ID" "$VERSION_ID"
dpkg-query -W -f='{PACKAGE}\\n'
# Addresses may hold a password; what is asked for is which source a version comes from.
quietly() {{ sed -E 's,://[^/@ ]*@,://,'; }}
apt-cache policy | quietly | sed 's/^/sources\\t/'
dpkg-query -W -f='${{binary:Package}}\\n' | xargs apt-cache policy | quietly | sed 's/^/policy\\t/'
if [ -x {HOME}/current/bin/python3 ]; then
  {HOME}/current/bin/python3 -I - <<'PYTHON'
import importlib.metadata
for one in importlib.metadata.distributions():
    print("python", one.metadata["Name"], one.version, one.locate_file(""), sep="\\t")
PYTHON
fi
for folder in {APPLICATION} {TOOLS}; do
  [ ! -d $folder ] || find $folder -type f ! -name '*.pyc' -exec sha256sum -- {{}} + | sed 's/^/file\\t/'
done
echo end
"""


@dataclass(frozen=True)
class Package:
    """A Debian package that is installed. `origin`: who vouches for its source (Debian, Debian-Security, ...)."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    origin: str


@dataclass(frozen=True)
class Content:
    """What is on a host. python: (name, version, folder). files: path -> SHA-256."""

    os: str
    release: str
    packages: tuple[Package, ...] = ()
    python: tuple[tuple[str, str, str], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def parse(host: str, lines: Iterable[str]) -> Content:
    """A host's answer.

    Raises:
        FleetError: it breaks off, or is none.
    """
    rows = [line.split("\t") for line in lines]
    if not rows or rows[-1] != ["end"]:
        raise FleetError(host=host, subject="sbom", found="an answer that breaks off", expected="its end")
    told: dict[str, list[list[str]]] = {}
    for kind, *rest in rows[:-1]:
        told.setdefault(kind, []).append(rest)
    labels = _labels(row[0] for row in told.get("sources", ()) if row)
    origins = _origins((row[0] for row in told.get("policy", ()) if row), labels)
    packages = tuple(
        Package(name.partition(":")[0], version, arch, source, source_version, _origin(name, origins))
        for status, name, version, arch, source, source_version in told.get("package", ())
        if status[1:2] == "i"
    )
    system = told.get("os", [[UNKNOWN, UNKNOWN]])[0]
    files = dict(_hashed(row[0]) for row in told.get("file", ()) if row)
    python = sorted({(row[0], row[1], row[2]) for row in told.get("python", ()) if len(row) == 3})
    return Content(system[0], system[1], packages, tuple(python), files)


def _origin(name: str, origins: Mapping[str, str]) -> str:
    """dpkg names the architecture of a package that may be there for several; apt leaves out the host's own."""
    return origins.get(name) or origins.get(name.partition(":")[0], UNKNOWN)


def _hashed(line: str) -> tuple[str, str]:
    """(path, digest) of a line of sha256sum, which marks paths with odd letters by a backslash before the line."""
    line = line.removeprefix("\\")
    return line[66:], line[:64]


def _labels(lines: Iterable[str]) -> dict[str, str]:
    """A package source, as `apt-cache policy` names it -> its label."""
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if match := re.match(r"^ *-?\d+ (\S.*)$", line):
            name = match[1]
        elif match := re.search(r"^ +release .*?\bl=([^,]+)", line):
            found[name] = match[1]
    return found


def _origins(lines: Iterable[str], labels: Mapping[str, str]) -> dict[str, str]:
    """Package -> the label of a source that has the installed version, from `apt-cache policy NAME...`."""
    found: dict[str, str] = {}
    name, installed = "", False
    for line in lines:
        if match := re.match(r"^(\S+):$", line):
            name, installed = match[1], False
        elif line.startswith(" *** "):
            installed = True
        elif re.match(r"^ {5}\S", line):
            installed = False
        elif installed and (match := re.match(r"^ +-?\d+ (\S.*)$", line)) and match[1] in labels:
            found.setdefault(name, labels[match[1]])
    return found


def bom(name: str, hosts: Mapping[str, Content], commit: str) -> Bom:
    """One document for a fleet: a component for each host, in which what it has. commit: of this project."""
    made = Bom()
    whole = Component(name=name, type=ComponentType.PLATFORM, version=commit, bom_ref=f"fleet/{name}")
    made.metadata.component = whole
    for host, content in hosts.items():
        made.components.add(
            Component(
                name=host, type=ComponentType.DEVICE, bom_ref=f"host/{host}",
                components=[*_packages(host, content), *_python(host, content), *_files(host, content)],
                properties=[Property(name="fleet:os", value=f"{content.os} {content.release}")],
            )
        )  # fmt: skip
    made.register_dependency(whole, made.components)
    return made


def _packages(host: str, content: Content) -> Iterable[Component]:
    for one in content.packages:
        # github.com/package-url/purl-spec, type deb: the vendor, the architecture, the release.
        qualifiers = {"arch": one.architecture, "distro": f"{content.os}-{content.release}"}
        if (one.source, one.source_version) != (one.name, one.version):
            qualifiers["upstream"] = f"{one.source}@{one.source_version}"
        purl = PackageURL("deb", content.os, one.name, one.version, qualifiers)
        yield Component(
            name=one.name, type=ComponentType.LIBRARY, version=one.version, purl=purl,
            bom_ref=f"host/{host}/deb/{one.name}:{one.architecture}",
            properties=[Property(name="fleet:origin", value=one.origin)],
        )  # fmt: skip


def _python(host: str, content: Content) -> Iterable[Component]:
    for name, version, folder in content.python:
        yield Component(
            name=name, type=ComponentType.LIBRARY, version=version, purl=PackageURL("pypi", None, name, version),
            bom_ref=f"host/{host}/python/{folder}/{name}@{version}",
            properties=[Property(name="fleet:folder", value=folder)],
        )  # fmt: skip


def _files(host: str, content: Content) -> Iterable[Component]:
    for path, digest in content.files.items():
        yield Component(
            name=path, type=ComponentType.FILE, bom_ref=f"host/{host}/file{path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        )  # fmt: skip


def rendered(made: Bom) -> str:
    """CycloneDX 1.6 in JSON."""
    return make_outputter(made, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)


def sbom(path: Path) -> str:
    """The bill of materials of an inventory's hosts.

    Raises:
        FleetError, FleetErrors: a host does not answer: a bill that lacks one is none.
    """
    inventory, fleet = load(path)
    state = State(inventory, Config(CONNECT_TIMEOUT=10))
    hosts = {one.name: one for one in inventory}

    def one(name: str) -> Content:
        connect_one(hosts[name])
        return parse(name, remote.run(hosts[name], SCRIPT, seconds=SECONDS).stdout)

    with ctx_state.use(state):
        try:
            found = together(hosts, one)
        finally:
            for host in hosts.values():
                if host.connected:
                    host.disconnect()
    commit, dirty = revision()
    ordered = {host.name: found[host.name] for host in fleet.hosts}
    return rendered(bom(fleet.name, ordered, commit + ("+dirty" if dirty else "")))
