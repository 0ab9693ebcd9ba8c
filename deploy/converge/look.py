"""Look at a host once: one shell script asks for everything desired of it, one parser reads the answer.

The script is made from the desired resources, so nothing is asked that is not needed and nothing needed is forgotten.
It only reads. It waits for a change still running on the host (of a controller that died, say) to end.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence

from deploy.errors import FleetError
from deploy.model import resources as want
from deploy.model.observed import (
    AccountState,
    Answer,
    CertificateState,
    FileState,
    HostFactsSeen,
    PackageState,
    Snapshot,
    UnitState,
)

ACT_LOCK = "/run/lock/fleet-act"
"""Held by every script that changes a host, shared by every look."""

UNIT_PROPERTIES = (
    "LoadState", "ActiveState", "SubState", "UnitFileState", "NeedDaemonReload", "MainPID",
    "ActiveEnterTimestampMonotonic",
)  # fmt: skip

UNSIGNED = r"""
apt-config dump 2>/dev/null | awk '
  {
    yes = tolower($2) ~ /^"([1-9][0-9]*|yes|true|with|on|enable)";$/
    if (yes && tolower($1) ~ /^(apt::get::allowunauthenticated|acquire::allow[a-z]*repositories)$/)
      print "unsigned\t" $1
  }'
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  # The option alone is printed: an address may hold a password.
  [ ! -f "$f" ] || awk '
    {
      line = tolower($0)
      if (FILENAME ~ /[.]sources$/) gsub(/:[ \t]*/, "=", line)
      else if (!sub(/^[ \t]*deb(-src)?[ \t]+[[]/, "", line) || !sub(/[]].*/, "", line)) next
      count = split(line, words, /[ \t]+/)
      for (n = 1; n <= count; n++) {
        yes = words[n] ~ /=([1-9][0-9]*|yes|true|with|on|enable)$/
        if (yes && words[n] ~ /^(trusted|allow-insecure|allow-weak|allow-downgrade-to-insecure)[+]?=/)
          print "unsigned\t" FILENAME ": " words[n]
      }
    }' "$f"
done
"""
"""Where apt is told to take what nobody signed. A word after `=` is yes as apt-pkg's StringToBool has it."""

_FACTS = f"""\
. /etc/os-release
printf 'os\\t%s\\nversion\\t%s\\n' "${{ID:-unknown}}" "${{VERSION_ID:-unknown}}"
printf 'clock\\t%s\\n' "$(date +%s.%N)"
awk '/^MemTotal/{{print "memory\\t" $2}}' /proc/meminfo
df -Pk /var | awk 'NR==2{{print "disk\\t" $4}}'
[ ! -d {want.ROLLING} ] || printf 'kept\\t%s\\n' "$(ls {want.ROLLING} | tr '\\n' ' ')"
{UNSIGNED}"""


def script(resources: Iterable[want.Resource], nonce: str) -> str:
    """The look script for these resources. `nonce` marks its own lines, so that no answer can imitate them."""
    items = tuple(resources)
    parts = [
        "export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"exec 8>>{ACT_LOCK}",
        f"flock -s -w 300 8 || {{ echo '@@{nonce} busy'; exit 75; }}",
        _section(nonce, "facts", _FACTS),
    ]
    parts += [_section(nonce, name, body) for name, body in _sections(items) if body]
    for query in _queries(items):
        parts.append(f"echo '@@{nonce} query {query.id}'")
        parts.append(f'( set -eu\n{query.script}\n) 2>&1\necho "@@{nonce} rc $?"')
    parts.append(f"echo '@@{nonce} end'")
    body = "\n".join(parts)
    # The whole function is parsed before it runs: nothing in it can eat the rest of the script from stdin.
    return f"look() {{\n{body}\n}}\nlook </dev/null\n"


def _section(nonce: str, name: str, body: str) -> str:
    return f"echo '@@{nonce} {name}'\n{body}"


def _sections(items: Sequence[want.Resource]) -> Iterable[tuple[str, str]]:
    packages = [item.name for item in items if isinstance(item, want.Package)]
    if packages:
        yield (
            "packages",
            "dpkg-query -W -f='${Package}\\t${Version}\\t${db:Status-Abbrev}\\n' " + _words(packages) + " 2>/dev/null",
        )
    paths = _paths(items)
    if paths:
        yield "stat", f"stat --printf='%F\\t%U\\t%G\\t%a\\t%n\\n' -- {_words(paths)} 2>/dev/null"
        yield "hash", f"sha256sum -- {_words(_hashed(items))} 2>/dev/null"
    links = [item.path for item in items if isinstance(item, want.Link)]
    if links:
        yield "links", f'for p in {_words(links)}; do printf \'%s\\t%s\\n\' "$p" "$(readlink -- "$p")"; done'
    accounts = [item.name for item in items if isinstance(item, want.Account)]
    if accounts:
        yield (
            "accounts",
            f'for u in {_words(accounts)}; do getent passwd "$u" && printf \'groups:%s\\n\' "$(id -Gn "$u")"; done',
        )
    units = [item.name for item in items if isinstance(item, want.Unit)]
    if units:
        yield "units", f"systemctl show -p {','.join(UNIT_PROPERTIES)} -- {_words(units)}"
        yield (
            "stamps",
            f'cd {want.STAMPS} 2>/dev/null && for u in {_words(units)}; do [ -f "$u" ] && sed "s|^|$u\\t|" "$u"; done',
        )
    certificates = [item for item in items if isinstance(item, want.Certificate)]
    if certificates:
        yield "certificates", "\n".join(_certificate(item) for item in certificates)


def _certificate(item: want.Certificate) -> str:
    return (
        f"echo 'certificate {item.certificate_path}'\n"
        f"cat {shlex.quote(item.certificate_path)} 2>/dev/null\n"
        f"openssl pkey -in {shlex.quote(item.key_path)} -pubout -outform DER 2>/dev/null </dev/null "
        "| sha256sum | sed 's/^/key /'"
    )


def _paths(items: Sequence[want.Resource]) -> list[str]:
    paths = [item.path for item in items if isinstance(item, want.File | want.Directory | want.Link)]
    for item in items:
        if isinstance(item, want.Certificate):
            paths += [item.certificate_path, item.key_path]
    return paths


def _hashed(items: Sequence[want.Resource]) -> list[str]:
    paths = dict.fromkeys(item.path for item in items if isinstance(item, want.File))
    for item in items:
        if isinstance(item, want.Unit):
            paths.update(dict.fromkeys((*item.reload_files, *item.restart_files)))
    return list(paths) or ["/dev/null"]


def _queries(items: Sequence[want.Resource]) -> list[want.Query]:
    found: dict[str, want.Query] = {}
    for item in items:
        if isinstance(item, want.Parameter | want.Only):
            found.setdefault(item.query.id, item.query)
    return list(found.values())


def _words(values: Iterable[str]) -> str:
    return " ".join(shlex.quote(value) for value in values)


def parse(
    host: str, output: Sequence[str], nonce: str, resources: Iterable[want.Resource],
    masked: Callable[[str], str] = str,
) -> Snapshot:  # fmt: skip
    """The Snapshot in a look script's output. `masked` is for what the host says of its errors.

    Raises:
        FleetError: the answer is incomplete, or the host is being changed by somebody else.
    """
    sections, answers, complete = _split(output, nonce, masked)
    if "busy" in sections:
        raise FleetError(
            host=host,
            subject="look",
            found=f"a change still running on the host (it holds {ACT_LOCK})",
            expected="no other run",
            hint=f"wait for it, or see who holds it: fuser -v {ACT_LOCK}",
        )
    if not complete:
        tail = "; ".join(line for line in output[-3:]) or "nothing"
        raise FleetError(
            host=host,
            subject="look",
            found=f"an answer that breaks off after: {tail}",
            expected="the answer's end mark",
            hint="see that the host is reachable, that its shell is POSIX sh and that /run is writable",
        )
    items = tuple(resources)
    units = [item.name for item in items if isinstance(item, want.Unit)]
    try:
        return Snapshot(
            host=host,
            facts=_facts(sections.get("facts", ())),
            files=_files(sections),
            packages=_packages(sections.get("packages", ())),
            accounts=_accounts(sections.get("accounts", ())),
            units=_units(units, sections.get("units", ()), sections.get("stamps", ())),
            certificates=_certificates(sections.get("certificates", ())),
            answers=answers,
        )
    except (ValueError, KeyError, IndexError):
        raise FleetError(
            host=host,
            subject="look",
            found="an answer that cannot be read",
            expected="what stat, dpkg-query, getent, systemctl and openssl print on Debian",
            hint="see that these tools of the host are Debian's own and work",
        ) from None


def _split(
    output: Sequence[str], nonce: str, masked: Callable[[str], str]
) -> tuple[dict[str, list[str]], dict[str, Answer], bool]:
    mark = f"@@{nonce} "
    sections: dict[str, list[str]] = {}
    answers: dict[str, Answer] = {}
    current: list[str] = []
    query = ""
    for line in output:
        if not line.startswith(mark):
            current.append(line)
            continue
        name, _, rest = line.removeprefix(mark).partition(" ")
        if name == "query":
            query, current = rest, []
        elif name == "rc":
            answers[query] = _answer(current, rest, masked)
            current = []
        else:
            current = sections.setdefault(name, [])
    return sections, answers, "end" in sections


def _answer(lines: Sequence[str], code: str, masked: Callable[[str], str]) -> Answer:
    values = {}
    noise = []
    for line in lines:
        name, tab, value = line.partition("\t")
        if tab:
            values[name] = value
        else:
            noise.append(line)
    error = "" if code == "0" else ("; ".join(noise[-3:]) or f"exit code {code}")
    return Answer(values, masked(error))


def _facts(lines: Sequence[str]) -> HostFactsSeen:
    values = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return HostFactsSeen(
        os=values.get("os", "unknown"),
        version=values.get("version", "unknown"),
        memory=int(values.get("memory", 0)) * 1024,
        disk_free=int(values.get("disk", 0)) * 1024,
        clock=float(values.get("clock", 0)),
        kept=tuple(values.get("kept", "").split()),
        unsigned=tuple(line.partition("\t")[2] for line in lines if line.startswith("unsigned\t")),
    )


def _files(sections: dict[str, list[str]]) -> dict[str, FileState]:
    hashes = {line[66:]: line[:64] for line in sections.get("hash", ())}
    targets = dict(line.split("\t", 1) for line in sections.get("links", ()))
    files = {}
    for line in sections.get("stat", ()):
        kind, owner, group, mode, path = line.split("\t", 4)
        files[path] = FileState(
            kind.removeprefix("regular empty ").removeprefix("regular "),
            owner, group, int(mode, 8), hashes.get(path, ""), targets.get(path, ""),
        )  # fmt: skip
    # Files that are only stamped, not managed, are known by their hash alone.
    for path, digest in hashes.items():
        files.setdefault(path, FileState("file", "", "", 0, digest))
    return files


def _packages(lines: Sequence[str]) -> dict[str, PackageState]:
    packages = {}
    for line in lines:
        name, version, status = line.split("\t")
        packages[name] = PackageState(version, installed=status[1:2] == "i", held=status[0:1] == "h")
    return packages


def _accounts(lines: Sequence[str]) -> dict[str, AccountState]:
    accounts: dict[str, AccountState] = {}
    name = home = shell = ""
    for line in lines:
        if line.startswith("groups:"):
            accounts[name] = AccountState(home, shell, frozenset(line.removeprefix("groups:").split()))
        else:
            name, *_, home, shell = line.split(":")
    return accounts


def _units(names: Sequence[str], lines: Sequence[str], stamp_lines: Sequence[str]) -> dict[str, UnitState]:
    stamps: dict[str, dict[str, str]] = {name: {} for name in names}
    for line in stamp_lines:
        unit, digest, path = line.split("\t", 2)
        stamps.setdefault(unit, {})[path] = digest
    blocks = "\n".join(lines).split("\n\n")
    units = {}
    for name, block in zip(names, blocks, strict=False):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        units[name] = UnitState(
            load=values.get("LoadState", "not-found"),
            active=values.get("ActiveState", "inactive"),
            sub=values.get("SubState", "dead"),
            file_state=values.get("UnitFileState", ""),
            needs_daemon_reload=values.get("NeedDaemonReload") == "yes",
            main_pid=int(values.get("MainPID") or 0),
            since=int(values.get("ActiveEnterTimestampMonotonic") or 0),
            stamps=stamps[name],
        )
    return units


def _certificates(lines: Sequence[str]) -> dict[str, CertificateState]:
    certificates: dict[str, CertificateState] = {}
    path = ""
    pem: list[str] = []
    for line in lines:
        if line.startswith("certificate "):
            path, pem = line.removeprefix("certificate "), []
        elif line.startswith("key "):
            text = "\n".join(pem) + "\n" if pem else ""
            certificates[path] = CertificateState(text, line.split()[1])
        else:
            pem.append(line)
    return certificates
