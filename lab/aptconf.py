"""What of this machine's apt configuration the hosts inherit.

Only what fetching needs: sources of the lab's suite, the keys they name,
proxies and other Acquire settings, credentials, CA certificates, name servers.
Never what runs commands (a container image's clean-up hooks, debconf, desktop
notifications), and no pinning: those are this machine's own affairs.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.system import run

CA_DIR = Path("/usr/local/share/ca-certificates")
_LOOPBACK = re.compile(r"//((?:[^/@]*@)?)(?:localhost|127\.\d+\.\d+\.\d+)(?=[:/]|$)")
_NAMESERVER = re.compile(r"^nameserver\s+(\S+)", re.M)
# Acquire settings that are about this machine's own lists, or that run programs.
_SKIP = re.compile(
    r"Acquire::(IndexTargets|GzipIndexes|cdrom|Changelogs|PackageIndexes|CompressionTypes)\b|.*auto-?detect",
    re.I,
)


@dataclass(frozen=True)
class Sources:
    """Sources of the suite: file name -> content, and the key files they name."""

    files: Mapping[str, str]
    keyrings: tuple[Path, ...]


def suites_of(suite: str) -> frozenset[str]:
    """The suites that belong to a Debian release."""
    return frozenset({suite, *(f"{suite}-{part}" for part in ("updates", "security", "backports"))})


def filter_deb822(text: str, suite: str) -> str:
    """The stanzas of a .sources file that serve the suite's main component; '' if none does."""
    kept = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if (
            "deb" in fields.get("types", "").split()
            and set(fields.get("suites", "").split()) & suites_of(suite)
            and "main" in fields.get("components", "").split()
            and fields.get("enabled", "yes").lower() not in ("no", "false", "0")
            and _debian_signed(fields.get("signed-by", ""))
        ):
            names = " ".join(s for s in fields["suites"].split() if s in suites_of(suite))
            stanza = re.sub(r"(?im)^suites:.*(\n[ \t].*)*", f"Suites: {names}", stanza)
            kept.append("\n".join(s for s in stanza.splitlines() if s and not s.startswith("#")))
    return "\n\n".join(kept) + "\n" if kept else ""


def filter_list(text: str, suite: str) -> str:
    """The lines of a .list file that serve the suite's main component."""
    kept = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.split("#", 1)[0])
        if not match or match[3] not in suites_of(suite) or "main" not in match[4].split():
            continue
        signed = re.search(r"signed-by=([^\s\]]+)", match[1] or "")
        if _debian_signed(signed[1] if signed else ""):
            kept.append(line.strip())
    return "\n".join(kept) + "\n" if kept else ""


def _debian_signed(signed_by: str) -> bool:
    """False for a third party's archive: its suite and component may be called like Debian's."""
    names = [Path(name).name for name in signed_by.replace(",", " ").split() if name.startswith("/")]
    return not names or any(name.startswith("debian-") for name in names)


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and last:
            fields[last] += " " + line.strip()
        elif ":" in line:
            last, value = line.split(":", 1)
            last = last.strip().lower()
            fields[last] = value.strip()
    return fields


def read_sources(suite: str, etc: Path = Path("/etc/apt")) -> Sources:
    """This machine's sources for a suite; empty on a machine of another release."""
    files: dict[str, str] = {}
    parts = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for path in parts:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        kept = filter_deb822(text, suite) if path.suffix == ".sources" else filter_list(text, suite)
        if kept:
            files[path.name] = kept
    named = re.findall(r"(?im)^signed-by:\s*(/\S+)|signed-by=(/[^\s\],]+)", "\n".join(files.values()))
    keyrings = {Path(a or b) for a, b in named}
    return Sources(files, tuple(sorted(k for k in keyrings if k.is_file())))


def filter_conf(dump: Iterable[str], defaults: Iterable[str]) -> list[str]:
    """Of `apt-config dump`: the Acquire settings about fetching that are not apt's defaults."""
    known = set(defaults)
    return [
        line
        for line in dump
        if line.startswith("Acquire::") and line not in known and not _SKIP.match(line) and '"";' not in line
    ]


def read_conf(gateway: str, environ: Mapping[str, str] = os.environ) -> str:
    """The apt.conf that lets a host fetch as this machine does ('' if nothing is needed)."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as bare:
        bare.write('Dir::Etc::main "/dev/null";\nDir::Etc::parts "/dev/null";\n')
        bare.flush()
        defaults = run(["env", f"APT_CONFIG={bare.name}", "apt-config", "dump"]).stdout.splitlines()
    lines = filter_conf(run(["apt-config", "dump"]).stdout.splitlines(), defaults)
    for scheme in ("http", "https"):
        proxy = environ.get(f"{scheme}_proxy", "")
        if proxy and not any(line.lower().startswith(f"acquire::{scheme}::proxy ") for line in lines):
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return "".join(line + "\n" for line in for_host(lines, gateway))


def for_host(lines: Iterable[str], gateway: str) -> list[str]:
    """A proxy on this machine's loopback is at the gateway, seen from a host."""
    return [_LOOPBACK.sub(rf"//\g<1>{gateway}", line) for line in lines]


def read_credentials(etc: Path = Path("/etc/apt")) -> dict[str, str]:
    """auth.conf and auth.conf.d: path below / -> content."""
    paths = [etc / "auth.conf", *sorted((etc / "auth.conf.d").glob("*.conf"))]
    return {f"etc/apt/{p.relative_to(etc)}": p.read_text() for p in paths if p.is_file()}


def ca_certificates(directory: Path = CA_DIR) -> dict[str, str]:
    """Certificates that this machine's owner added: file name -> PEM text."""
    return {p.name: p.read_text() for p in sorted(directory.glob("**/*.crt")) if p.is_file()}


def resolv_conf(
    environ: Mapping[str, str] = os.environ,
    candidates: Iterable[Path] = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")),
) -> str:
    """A resolv.conf with servers that a host can reach. Raises LabError if there is none."""
    if given := environ.get("FLEET_LAB_DNS", "").replace(",", " ").split():
        return "".join(f"nameserver {server}\n" for server in given)
    for path in candidates:
        text = path.read_text() if path.is_file() else ""
        servers = _NAMESERVER.findall(text)
        if servers and not any(s.startswith("127.") or s == "::1" for s in servers):
            kept = re.findall(r"^(?:nameserver|search|domain|options)\b.*$", text, re.M)
            return "".join(line + "\n" for line in kept)
    raise LabError(
        "this machine",
        "no name server that hosts could reach: resolv.conf names only this machine",
        "a name server with an address of its own",
        "export FLEET_LAB_DNS=ADDRESS",
    )
