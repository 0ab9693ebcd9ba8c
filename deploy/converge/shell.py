"""The shell that acts: small POSIX functions, and what each kind of step says with them.

A script arrives on the shell's standard input, so neither content nor secrets are ever arguments of a process.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deploy.converge.apt import APT
from deploy.converge.look import ACT_LOCK
from deploy.converge.step import Step
from deploy.model import resources as want

PREAMBLE = f"""\
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
exec 9>>{ACT_LOCK}
flock -w 300 9 || {{ echo 'another change is still running on this host (it holds {ACT_LOCK})'; exit 75; }}

# outdated UNIT: what was kept before its last start, which no roll made (apply refuses during one), is no way back.
outdated() {{
  since=$(cat "{want.ROLLING}/$1/since" 2>/dev/null || echo 0)
  at=$(systemctl show --timestamp=unix -p ActiveEnterTimestamp --value -- "$1" | tr -d '@')
  [ "$since" = 0 ] || [ "${{at:-0}}" -le "$since" ] || rm -rf -- "{want.ROLLING}/$1"
}}

# kept PATH UNIT...: what each of these units has loaded goes into its folder, unless it is owed a restart already.
kept() {{
  path=$1
  shift
  for unit; do
    copy={want.ROLLING}/$unit/files$path
    outdated "$unit"
    if [ -e "$copy" ] || [ -e "$copy.absent" ] || ! systemctl is-active --quiet -- "$unit"; then continue; fi
    (umask 077 && mkdir -p -- "$(dirname -- "$copy")")
    [ -e "{want.ROLLING}/$unit/since" ] || date +%s >"{want.ROLLING}/$unit/since"
    if [ -f "$path" ]; then cp -p -- "$path" "$copy"; else : >"$copy.absent"; fi
  done
}}

# put PATH OWNER GROUP MODE CHECK KEEP UNIT...: content (base64) on stdin; validated beside the target, then renamed
# over it. What was there before goes to KEEP, if that is given, and is kept for the units.
put() {{
  directory=$(dirname -- "$1")
  CANDIDATE=$(umask 077 && mktemp "$directory/.fleet-XXXXXXXX")
  trap 'rm -f -- "$CANDIDATE"' EXIT
  base64 -d >"$CANDIDATE"
  chown "$2:$3" "$CANDIDATE"
  chmod "$4" "$CANDIDATE"
  if [ -n "$5" ]; then
    export CANDIDATE TARGET="$1"
    if ! verdict=$(sh -euc "$5" 2>&1 </dev/null 9>&-); then
      printf 'refused by its checker: %s\\n' "$verdict"
      return 1
    fi
  fi
  sync "$CANDIDATE"
  if [ -n "${{6:-}}" ] && [ -f "$1" ]; then
    mkdir -p -- "$(dirname -- "$6")"
    cp -p -- "$1" "$6"
  fi
  if [ $# -gt 6 ]; then (target=$1; shift 6; kept "$target" "$@"); fi
  if [ -d "$1" ] && [ ! -L "$1" ]; then
    printf 'a directory is in the way: %s\\n' "$1"
    return 1
  fi
  mv -fT -- "$CANDIDATE" "$1"
  sync "$directory"
  trap - EXIT
}}

# started UNIT: it runs, or its last words are shown.
started() {{
  if ! systemctl is-active --quiet -- "$1"; then
    printf '%s is %s after its start\\n' "$1" "$(systemctl is-active -- "$1")"
    journalctl --no-pager -o cat -n 15 -u "$1" 2>/dev/null || true
    return 1
  fi
}}
"""


def encode(content: str) -> str:
    """Base64 in short lines, for a here-document."""
    return base64.encodebytes(content.encode()).decode().strip()


def put(item: want.File) -> str:
    """Write a file: staged, validated, renamed."""
    keep = want.PREVIOUS + item.path if item.keep else ""
    words = (item.path, item.owner, item.group, f"{item.mode:04o}", item.check, keep, *item.kept_for)
    return f"put {' '.join(shlex.quote(word) for word in words)} <<'CONTENT'\n{encode(item.content)}\nCONTENT"


def set_value(item: want.Parameter) -> str:
    """A parameter's own act; what it overwrites is kept first."""
    if not item.kept_for or not item.act:
        return item.act
    units = " ".join(shlex.quote(unit) for unit in item.kept_for)
    return "".join(f"kept {shlex.quote(path)} {units}\n" for path in item.writes) + item.act


def owner(path: str, user: str, group: str, mode: int) -> str:
    """Owner and mode only: the content and its time are left alone."""
    quoted = shlex.quote(path)
    # Five digits: with four, chmod leaves a directory's set-group-id bit as it is.
    return f"chown -h {user}:{group} -- {quoted}\nchmod {mode:05o} -- {quoted}"


def directory(item: want.Directory) -> str:
    quoted = shlex.quote(item.path)
    return (
        f"[ ! -e {quoted} ] || [ -d {quoted} ] || {{ echo {quoted} is in the way: not a directory; exit 1; }}\n"
        f"mkdir -p -- {quoted}\n{owner(item.path, item.owner, item.group, item.mode)}"
    )


def link(item: want.Link) -> str:
    path, temporary = shlex.quote(item.path), shlex.quote(item.path + ".fleet-new")
    return f"ln -sfn -- {shlex.quote(item.target)} {temporary}\nmv -fT -- {temporary} {path}"


def account(item: want.Account, *, exists: bool) -> str:
    name = shlex.quote(item.name)
    shape = f"--home-dir {shlex.quote(item.home)} --shell {shlex.quote(item.shell)}"
    groups = ",".join(item.groups)
    if exists:
        return f"usermod --home {shlex.quote(item.home)} --shell {shlex.quote(item.shell)} --groups '{groups}' {name}"
    return (
        f"getent group {name} >/dev/null || groupadd --system {name}\n"
        f"useradd --system --no-create-home --gid {name} {shape} --groups '{groups}' {name}"
    )


def install(item: want.Package) -> str:
    """One package; `batch` turns a host's packages into a single call of apt-get."""
    return f"packages {shlex.quote(item.name + (f'={item.version}' if item.version else ''))}"


def packages(steps: Sequence[Step]) -> str:
    """All packages of a host in one transaction. Nothing that is installed starts: configuration comes first.

    A broken or half-done earlier run of dpkg is finished first; another's lock is waited for.
    """
    names = [
        step.resource.name + (f"={step.resource.version}" if step.resource.version else "")
        for step in steps
        if isinstance(step.resource, want.Package) and step.script.startswith("packages ")
    ]
    others = [step.script for step in steps if not step.script.startswith("packages ")]
    if not names:
        return "\n".join(others)
    words = " ".join(shlex.quote(name) for name in names)
    # An installed version may be pinned to an earlier one.
    return "\n".join([*others, APT, f"install {'--allow-downgrades ' if '=' in words else ''}{words}"])


def start(item: want.Unit, fresh: bool) -> str:
    """Start (and enable) a unit, and see that it runs."""
    name = shlex.quote(item.name)
    # Always: a new folder of drop-ins beside a unit that it knows is not noticed by systemd (nor in NeedDaemonReload).
    lines = ["systemctl daemon-reload"]
    if item.enabled and fresh:
        lines.append(f"systemctl enable --quiet -- {name}")
    if item.running:
        lines += [
            f"systemctl reset-failed -- {name} 2>/dev/null || true",
            f"tries={item.tries}",
            f"until systemctl start -- {name} 9>&- || [ $((tries -= 1)) -le 0 ]; do sleep 2; done",
            f"started {name}",
        ]
    return "\n".join(lines)


def restart(item: want.Unit) -> str:
    name = shlex.quote(item.name)
    return f"systemctl daemon-reload\nsystemctl restart -- {name} 9>&- || true\nstarted {name}"


def reload(item: want.Unit) -> str:
    """Reload; the effect is seen by the second look (the stamp, or the value that the server runs with)."""
    name = shlex.quote(item.name)
    # systemd does not always notice a drop-in in a new folder; without it nothing would be stamped.
    return f"systemctl daemon-reload\nsystemctl reload -- {name} 9>&-\nstarted {name}"


def forget_kept(unit: str) -> str:
    """What the unit runs with is proven: there is no way back any more."""
    return (
        f"rm -rf -- {shlex.quote(f'{want.ROLLING}/{unit}')}\n"
        f"[ ! -d {want.ROLLING} ] || rmdir --ignore-fail-on-non-empty {want.ROLLING}"
    )


def bring_back(unit: str, stop: Sequence[str] = ()) -> str:
    """The files and packages that the unit ran with before. The copies stay until it is proven.

    stop: units that are stopped while packages are changed, if any has to be.
    """
    halt = f"systemctl stop -- {' '.join(map(shlex.quote, stop))} 9>&-" if stop else ":"
    return f"""\
folder={shlex.quote(f"{want.ROLLING}/{unit}")}
if [ ! -d "$folder/files" ] && [ ! -d "$folder/packages" ]; then
  echo "nothing earlier of {unit} is kept on this host"
  exit 1
fi
if [ -d "$folder/packages" ]; then (
  set --
  for deb in "$folder"/packages/*.deb; do
    name=$(dpkg-deb -f "$deb" Package)
    [ "$(dpkg-query -W -f='${{db:Status-Abbrev}}${{Version}}' "$name")" = "ii $(dpkg-deb -f "$deb" Version)" ] ||
      set -- "$@" "$deb"
  done
  [ $# -gt 0 ] || exit 0
  {halt}
{APT.replace("--force-confold || failed", "--force-confold || true # what broke is replaced")}
  install --allow-downgrades "$@"
) fi
if [ -d "$folder/files" ]; then (cd "$folder/files" && find . -type f) | while read -r name; do
  path=${{name#.}}
  case $path in
  *.absent) rm -f -- "${{path%.absent}}" ;;
  *)
    cp -p -- "$folder/files$path" "$path.fleet-back"
    sync "$path.fleet-back"
    mv -fT -- "$path.fleet-back" "$path"
    ;;
  esac
done; fi
systemctl daemon-reload"""


@dataclass(frozen=True)
class Failure:
    """A step that did not succeed on a host, and the last words of its shell."""

    key: str
    words: str


def batch(steps: Iterable[Step], script_of: Callable[[Step], str] = lambda step: step.script) -> str:
    """One script that does the steps in order and stops at the first that fails, saying which."""
    parts = [PREAMBLE]
    todo = list(steps)
    installs = [step for step in todo if isinstance(step.resource, want.Package)]
    # What says which versions are to be had.
    first = [step for step in todo if step.phase is want.Phase.PACKAGES and step not in installs]
    parts += [_step(step.key, script_of(step)) for step in first if step.script]
    if installs:
        parts.append(_step(installs[0].key, packages(installs)))
    parts += [_step(step.key, script_of(step)) for step in todo if step not in [*first, *installs] and step.script]
    parts.append("echo '@@all done'")
    body = "\n".join(parts)
    return f"act() {{\n{body}\n}}\nact </dev/null\n"


def single(key: str, script: str) -> str:
    """A script on its own, as `batch` runs the scripts of steps; its output is between marks (see `failure`)."""
    body = "\n".join((PREAMBLE, _step(key, script), "echo '@@all done'"))
    return f"act() {{\n{body}\n}}\nact </dev/null\n"


def _step(key: str, script: str) -> str:
    label = shlex.quote(key)
    # The subshell is not in a condition: there `set -e` would be without effect.
    return (
        f"printf '@@step %s\\n' {label}\n( set -eu\n{script}\n) 2>&1\ncode=$?\n"
        f"[ $code -eq 0 ] || {{ printf '@@fail %s\\n' {label}; exit 1; }}"
    )


def failure(output: Sequence[str]) -> Failure | None:
    """The step at which a batch stopped, from its output; None when it was all done."""
    key = ""
    words: list[str] = []
    for line in output:
        if line.startswith("@@step "):
            key, words = line.removeprefix("@@step "), []
        elif line.startswith("@@all done"):
            return None
        elif not line.startswith("@@fail "):
            words.append(line)
    return Failure(key or "the host's shell", "; ".join(word.strip() for word in words[-8:] if word.strip()))
