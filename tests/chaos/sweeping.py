"""Where secrets are that should be nowhere: what is searched for, where it may be, and one pass over a host.

What is searched for goes to a host on standard input, never in a command line, and is not written there.
"""

from __future__ import annotations

import base64
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from deploy.converge import desired
from deploy.converge.inventory import folder, open_keys
from deploy.model.fleet import Context, Live
from deploy.model.resources import PREVIOUS, ROLLING, File
from lab import exec_
from tests.chaos.failover import the_fleet
from tests.chaos.support import INVENTORY, SPEC

ROOTS = ("/etc", "/var", "/root", "/home", "/opt", "/srv", "/tmp", "/run", "/usr/local", "/boot", "/dev/shm")
"""All that is not the kernel's or a package's own."""
SECONDS = 240
"""One pass over a host's files, at the lowest priority."""

SERVERS_OWN: Mapping[str, str] = {
    "/etc/redis/*/state.conf": "Redis writes there what it runs with (CONFIG REWRITE), its password to its primary too",
    "/var/lib/mysql/master.info": "MariaDB keeps there what it logs in to its primary with",
}
"""Files that a server writes by itself: path -> why a secret is in it."""


def forms(secret: str) -> set[str]:
    """What a secret looks like: as it is, in hexadecimal, for a URL, in base64, also within a longer text."""
    raw = secret.encode()
    found = {secret, raw.hex(), raw.hex().upper(), quote(secret, safe=""), quote_plus(secret)}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # Of the three places in a group of three bytes: the characters that depend on the secret alone.
            text = encode(b"\0" * offset + raw).decode()
            found.add(text[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6])
    return found


def vault() -> dict[str, str]:
    """Name -> every secret of the inventory."""
    keys = open_keys(folder(INVENTORY), profile=the_fleet().profile)
    return {name: keys.secret(name) for name in keys.vault.names()}


def within(text: str, secrets: Mapping[str, str]) -> set[str]:
    """Names of the secrets that are in a text, in whatever form."""
    return {name for name, secret in secrets.items() if any(form in text for form in forms(secret))}


@dataclass(frozen=True)
class Found:
    """A file with one of the secrets in it."""

    path: str
    mode: int
    owner: str
    group: str
    others: str = ""
    """Members of its group beside the owner."""


def context(host: str, secrets: Mapping[str, str]) -> Context:
    """What roles are asked with, for what they say of this host."""
    keys = open_keys(folder(INVENTORY), profile=the_fleet().profile)
    fleet = the_fleet()
    return desired.context(
        fleet, fleet.host(host), Live.first_boot(fleet), keys.authority.certificate_pem, lambda name: secrets[name]
    )


def declared(host: str, secrets: Mapping[str, str]) -> dict[str, File]:
    """The files of a host that hold a secret, as its desired state says."""
    every = desired.host_state(context(host, secrets)).resources
    return {one.path: one for one in every if isinstance(one, File) and within(one.content, secrets)}


def misplaced(found: Iterable[Found], meant: Mapping[str, File]) -> dict[str, str]:
    """Path -> what is wrong with it: a secret where none is meant to be, or open to more than its owner."""
    wrong = {}
    for one in found:
        file = meant.get(_original(one.path))
        if file is None and not any(fnmatch.fnmatchcase(one.path, pattern) for pattern in SERVERS_OWN):
            wrong[one.path] = "no secret is meant to be here"
        elif one.mode & 0o007:
            wrong[one.path] = f"mode {one.mode:o}: open to everybody"
        elif one.mode & 0o070 and one.others:
            wrong[one.path] = f"mode {one.mode:o}, and in the group {one.group} there are {one.others}"
        elif file is not None and one.path == file.path:
            there_is, to_be = (one.owner, one.group, one.mode), (file.owner, file.group, file.mode)
            if there_is != to_be:
                wrong[one.path] = f"{there_is} instead of {to_be}"
    return wrong


def _original(path: str) -> str:
    """What a kept file is the copy of: what a unit had loaded, or what was there before a guarded change."""
    if path.startswith(f"{PREVIOUS}/"):
        return path.removeprefix(PREVIOUS)
    if path.startswith(f"{ROLLING}/"):
        _, _, rest = path.removeprefix(f"{ROLLING}/").partition("/files/")
        return f"/{rest}"
    return path


def files_script(roots: Iterable[str]) -> str:
    """Prints `MODE OWNER GROUP OTHERS PATH` of each file below the roots that has a line of standard input in it."""
    return f"""\
export LC_ALL=C
cd /
set +e
{{ timeout {SECONDS} nice -n 19 grep -rlaF -D skip -f /dev/stdin -- {" ".join(roots)} 2>/dev/null
  [ $? != 124 ] || echo //too-long; }} |
while IFS= read -r path; do
  [ "$path" != //too-long ] || exit 3
  set -- $(stat -c '%a %U %G %g' -- "$path" 2>/dev/null) && [ $# = 4 ] || continue
  # Those who have the group as their own, and those who are in it.
  others=$({{ getent passwd | awk -F: -v g="$4" '$4 == g {{ print $1 }}'
    getent group "$3" | cut -d: -f4 | tr , '\\n'; }} | grep -vx -e "$2" -e root -e '' | sort -u | tr '\\n' ',')
  # The group's own account is who the file is for, where root is the owner.
  [ "$2" != root ] || others=$(printf '%s' "$others" | tr , '\\n' | grep -vx -e "$3" -e '' | tr '\\n' ',')
  printf '%s %s %s %s %s\\n' "$1" "$2" "$3" "${{others:--}}" "$path"
done
[ $? != 3 ] || {{ echo 'the files were not all read in {SECONDS} s' >&2; exit 3; }}
"""


def parsed(text: str) -> list[Found]:
    found = []
    for line in text.splitlines():
        mode, owner, group, others, path = line.split(" ", 4)
        found.append(Found(path, int(mode, 8), owner, group, others.strip(",-")))
    return found


JOURNALS = """\
export LC_ALL=C
exec 3<&0
{ journalctl -q -o export --no-pager; [ ! -d /var/log/fleet-journal ] ||
  journalctl -q -D /var/log/fleet-journal -o export --no-pager; } </dev/null 2>/dev/null |
nice -n 19 grep -aF -f /dev/fd/3 | head -c 20000 || true
"""
"""Prints the lines of the host's journal, and of those that others have sent it, with a line of standard input in them:
fields that a journal compresses are found by nobody who reads its files."""


def needles(secrets: Mapping[str, str]) -> str:
    return "".join(f"{form}\n" for form in sorted({form for secret in secrets.values() for form in forms(secret)}))


def _asked(host: str, script: str, secrets: Mapping[str, str]) -> str:
    done = exec_(SPEC, host, ["sh", "-euc", script], input=needles(secrets), timeout=SECONDS + 60)
    assert done.returncode == 0, f"{host}: {done.stderr[-500:]}"
    return str(done.stdout)


def files_with(host: str, secrets: Mapping[str, str], roots: Iterable[str] = ROOTS) -> list[Found]:
    """Every file of a host with one of the secrets in it."""
    return parsed(_asked(host, files_script(roots), secrets))


def journal_with(host: str, secrets: Mapping[str, str]) -> str:
    """The lines of a host's journals with one of the secrets in them. They are secret themselves."""
    return _asked(host, JOURNALS, secrets)
