"""The audit trail of one run: who changed what, from where, with which revision, and how it ended.

It is written beside the inventory and on every host that is changed, before the first change there and at the end; a
run that changes nothing writes nothing. Contents and secrets are in none of it. A host on which it cannot be written is
still changed, since what fills its disk has to be mended too: the controller's trail then says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import secrets as random
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gevent.lock import BoundedSemaphore

from deploy.converge.step import Step
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors, each_of, unforeseen
from deploy.model import records
from deploy.model.resources import File

ROOT = Path(__file__).resolve().parents[2]
SUMMARY = 200
"""Characters of a step's summary that are kept."""
SECONDS = 30
"""For a line on a host: one that hangs must not hold the others up for longer."""

Do = Callable[[str, str], object]
"""(host, script): run it as root there. Raises FleetError."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def operator(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """(who, from where): the account, the login that it came from (sudo changes the first alone), the controller, and
    the address and key of an operator who is logged in there by SSH, as far as sshd tells (ExposeAuthInfo).
    """
    who = _account(os.getuid())
    try:
        login = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        login = 2**32 - 1
    if login not in {2**32 - 1, os.getuid()}:
        who = f"{_account(login)} as {who}"
    elif environ.get("SUDO_USER"):
        who = f"{environ['SUDO_USER']} as {who}"
    origin = socket.gethostname()
    if connection := environ.get("SSH_CONNECTION", "").split():
        origin += f", from {connection[0]}"
    if key := _key(environ.get("SSH_USER_AUTH", "")):
        origin += f", key {key}"
    return who, origin


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _key(path: str) -> str:
    """Fingerprint of the key in a file of sshd's ExposeAuthInfo, as ssh-keygen shows it; empty if there is none."""
    try:
        lines = Path(path).read_text().splitlines() if path else []
    except OSError:
        return ""
    for line in lines:
        words = line.split()
        if len(words) >= 3 and words[0] == "publickey":
            try:
                digest = hashlib.sha256(base64.b64decode(words[2], validate=True)).digest()
            except ValueError:
                continue
            return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
    return ""


def revision(root: Path = ROOT) -> tuple[str, bool]:
    """(commit, whether tracked files differ from it) of this project; `unknown` where it lies outside git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], text=True, capture_output=True, timeout=20, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def described(step: Step) -> dict[str, Any]:
    """A step as the trail has it. A file's hash says which content it has now.

    Not that of a file with secrets: who may read the trail could try what a short one is.
    """
    found: dict[str, Any] = {"key": step.key, "class": step.step.value, "summary": step.summary[:SUMMARY]}
    if isinstance(step.resource, File) and not step.resource.absent and not step.resource.secret:
        found["sha256"] = step.resource.sha256
    return found


@dataclass
class Trail:
    """What one run writes down. `outcome`: how it ended, as far as it is known before the end."""

    inventory: Path
    command: str
    do: Do
    masked: Callable[[str], str] = str
    arguments: Sequence[str] = field(default_factory=lambda: tuple(sys.argv[1:]))
    run: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{random.token_hex(3)}")
    outcome: str = ""
    unwritten: dict[str, FleetError] = field(default_factory=dict)
    _head: dict[str, Any] = field(default_factory=dict)
    _done: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _beginning: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    _handle: int = -1

    def touch(self, host: str, *, tell: bool = True) -> None:
        """Before anything is changed on a host: that it begins. Once for each host.

        tell: on the host as well; not one that hangs.

        Raises:
            FleetError: it cannot be written on the controller; nothing may be changed then.
        """
        with self._beginning:
            if not self._head:
                self._begin()
            if host in self._done:
                return
            self._done[host] = []
            self._write("did", host=host, steps=[])
        if tell:
            self._told.add(host)
            words = f"{self.command} by {self._head['who']} at {self._head['origin']} begins, run {self.run}"
            self._tell(host, self._line("begin", **self._head), words)

    def did(self, host: str, steps: Iterable[Mapping[str, Any]]) -> None:
        """Steps that were done on a host that was touched, or that failed there."""
        found = [{key: self._clean(value) for key, value in step.items()} for step in steps]
        if found and host in self._done:
            self._done[host] += found
            self._write("did", host=host, steps=found)

    def end(self, outcome: str) -> None:
        """How it ended, on the controller and on every host that was touched; nothing if none was."""
        if not self._head:
            return
        outcome = str(self._clean(outcome))

        def one(host: str) -> None:
            steps = self._done[host]
            words = f"{self.command}, run {self.run}, ends: {outcome}, {len(steps)} steps here"
            self._tell(host, self._line("end", outcome=outcome, steps=steps), words)

        together(self._told, one)
        self._write(
            "end", outcome=outcome, unwritten={name: self.masked(why.found) for name, why in self.unwritten.items()}
        )
        os.close(self._handle)
        self._handle, self._head = -1, {}

    def _begin(self) -> None:
        who, origin = operator()
        commit, dirty = revision()
        words = " ".join(shlex.quote(str(self._clean(word))) for word in self.arguments)
        head = {
            "command": f"{self.command} ({words})" if words else self.command, "who": who, "origin": origin,
            "revision": commit, "dirty": dirty,
        }  # fmt: skip
        path = self.inventory / records.CONTROLLER_FILE
        try:
            _rotate(path)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise self._unwritable(path, error) from None
        self._write("begin", **head)
        self._head = head

    def _line(self, event: str, **what: Any) -> dict[str, Any]:
        return {"at": now(), "run": self.run, "event": event, **what}

    def _write(self, event: str, **what: Any) -> None:
        line = json.dumps(self._line(event, **what))
        try:
            os.write(self._handle, (line + "\n").encode())
            os.fsync(self._handle)
        except OSError as error:
            raise self._unwritable(self.inventory / records.CONTROLLER_FILE, error) from None

    def _tell(self, host: str, line: Mapping[str, Any], words: str) -> None:
        try:
            self.do(host, script(line, words))
        except (FleetError, FleetErrors) as error:
            self.unwritten[host] = each_of(error)[0]
        except Exception as error:  # a connection that is gone can raise anything; the run's own outcome counts
            self.unwritten[host] = unforeseen(error, host)

    def _clean(self, value: Any) -> Any:
        return self.masked(value) if isinstance(value, str) else value

    @staticmethod
    def _unwritable(path: Path, error: OSError) -> FleetError:
        return FleetError(
            subject=str(path), found=error.strerror or type(error).__name__,
            expected="an audit trail beside the inventory that this user may write", hint="nothing more is changed",
        )  # fmt: skip


def _rotate(path: Path) -> None:
    """Set a file that has grown too large aside; the oldest of those goes."""
    if not path.is_file() or path.stat().st_size < records.CONTROLLER_BYTES:
        return
    for number in range(records.KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def script(line: Mapping[str, Any], words: str) -> str:
    """Shell that appends a line to the host's own trail, and says it in the journal.

    What sshd said of the login that this very shell descends from goes into it: the account, the address, and the
    fingerprint of the key, which no controller can make up. (sudo hides it from the environment, not from /proc.)
    """
    text = json.dumps(line)
    assert text.endswith("}")
    encoded = base64.encodebytes(text[:-1].encode()).decode().strip()
    return f"""\
umask 027
file={records.HOST_FILE}
[ -d {records.HOST_FOLDER} ] || install -d -m 0750 -o root -g {records.HOST_GROUP} {records.HOST_FOLDER}
if [ "$(stat -c %s "$file" 2>/dev/null || echo 0)" -ge {records.HOST_BYTES} ]; then
  n={records.KEPT}
  while [ $n -gt 1 ]; do
    [ ! -e "$file.$((n - 1))" ] || mv -f "$file.$((n - 1))" "$file.$n"
    n=$((n - 1))
  done
  mv -f "$file" "$file.1"
fi
[ -e "$file" ] || {{ : >"$file"; chown root:{records.HOST_GROUP} "$file"; chmod {records.HOST_MODE:04o} "$file"; }}
pid=$$ login=
while [ "${{pid:-0}}" -gt 1 ] && [ -z "$login" ]; do
  case $(cat "/proc/$pid/comm" 2>/dev/null || true) in
  sshd*)
    login=$(journalctl --quiet --no-pager --boot --output=cat --lines=50 "_PID=$pid" 2>/dev/null |
      sed -n 's/^Accepted [a-z-]* for \\(.*\\) from \\([^ ]*\\) port [0-9]* ssh2:* *\\(.*\\)$/\\1 from \\2 by \\3/p' |
      tail -n 1) || login= ;;
  esac
  pid=$(awk '$1 == "PPid:" {{ print $2 }}' "/proc/$pid/status" 2>/dev/null) || pid=0
done
login=$(printf %s "$login" | tr -cd 'A-Za-z0-9 ._:%/+=@-')
line=$(base64 -d <<'LINE'
{encoded}
LINE
)
# A line that was cut off by a crash must not spoil this one.
[ ! -s "$file" ] || [ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
printf '%s, "login": "%s"}}\\n' "$line" "$login" >>"$file"
sync "$file"
logger -t {records.TAG} -p auth.notice -- {shlex.quote(words)} || true"""


def reading(since: str) -> str:
    """Shell that prints the lines of a host's trail from `since` (as `at` has it) on, the oldest first."""
    numbers = " ".join(f"{records.HOST_FILE}.{number}" for number in range(records.KEPT, 0, -1))
    return f"""\
for file in {numbers} {records.HOST_FILE}; do
  [ ! -f "$file" ] || awk -v since={shlex.quote(since)} 'substr($0, 9, 24) >= since' "$file"
done
echo end
"""


def own(inventory: Path, since: str) -> list[str]:
    """The controller's lines from `since` on, the oldest first."""
    path = inventory / records.CONTROLLER_FILE
    files = [path.with_name(f"{path.name}.{number}") for number in range(records.KEPT, 0, -1)]
    lines = [line for one in (*files, path) if one.is_file() for line in one.read_text(errors="replace").splitlines()]
    return [line for line in lines if line[8:32] >= since]
