"""Values that come from somebody else: stored, or edited in a file that no disk ever sees."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from deploy.converge import lock
from deploy.converge.desired import secret_specs
from deploy.converge.inventory import load, own_identity
from deploy.errors import FleetError
from deploy.model.secrets import Change, SecretSpec
from deploy.procedures.secrets.rotate import known
from deploy.trust.identities import load_identities
from deploy.trust.secret import Secret
from deploy.trust.vault import Vault

PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]{15,31}")
"""What every server and file takes unquoted; 32 is the longest password of a replica (model/secrets.py)."""

PREFIX = "fleet-edit-"
MEMORY = "/dev/shm"  # noqa: S108  # nosec B108 - a folder of one's own is made in it
HEADER = """\
# Secrets of {name}: `NAME = VALUE`, one a line. What you change is stored; with nothing changed, nothing is done.
# This file lies in memory alone, is yours alone, and is gone when the editor ends.
# A password of the fleet's own servers changes in phases: fleet secrets rotate brings it to the hosts afterwards.
"""
QUIET = ("-n", "-i", "NONE", "-c", "silent! set noundofile nobackup nowritebackup")
"""What keeps vim from writing elsewhere what it shows: swap file, history, undo, backup."""


def put(path: Path, name: str, value: str, identity: Path | None = None) -> str:
    """Store a secret that somebody else issued, such as the password of a mail server; what has to be done now.

    Raises:
        FleetError: no role knows this secret, or the value cannot be one.
    """
    specs = secret_specs(load(path)[1].profile)
    known(specs, [name])
    return _stored(path, specs, {name: value}, identity)


def edit(path: Path, names: Sequence[str], identity: Path | None = None, editor: str = "") -> str:
    """Open these secrets, or all, in an editor and store what was changed; what has to be done now.

    editor: its command; default: $VISUAL, $EDITOR, vi.

    Raises:
        FleetError: nothing was changed, or not in a way that can be stored: then nothing is.
    """
    specs = secret_specs(load(path)[1].profile)
    known(specs, names)
    vault = _open(path, identity)
    before = {name: vault.get(name).reveal() for name in (names or vault.names()) if name in specs}
    command = shlex.split(editor or os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with private(path.name) as folder:
        file = folder / "secrets"
        text = HEADER.format(name=path.name)
        text += "".join(f"\n# {specs[name].purpose}\n{name} = {value}\n" for name, value in before.items())
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        _run(command, file)
        after = parsed(file.read_text(errors="replace"), before)
    changed = {name: value for name, value in after.items() if value != before[name]}
    if not changed:
        raise FleetError(
            subject="fleet secrets edit", found="nothing changed", expected="another value", hint="nothing was stored"
        )
    return _stored(path, specs, changed, identity)


def parsed(text: str, before: Mapping[str, str]) -> dict[str, str]:
    """The values in an edited file. Errors say where, never what.

    Raises:
        FleetError: a line that is none, a name that was not there, is there twice or is not there any more.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name not in before or name in found or not value:
            raise FleetError(
                subject=f"fleet secrets edit, line {number}",
                found="a name for the second time" if name in found else "no `NAME = VALUE` of one of those secrets",
                expected="the lines that were there, with other values", hint="nothing was stored",
            )  # fmt: skip
        found[name] = value
    if missing := sorted(set(before) - set(found)):
        raise FleetError(
            subject="fleet secrets edit", found=f"no line any more for {', '.join(missing)}",
            expected="the lines that were there", hint="nothing was stored; a secret goes with the role that needs it",
        )  # fmt: skip
    return found


def _stored(path: Path, specs: Mapping[str, SecretSpec], values: Mapping[str, str], identity: Path | None) -> str:
    """All of them or none."""
    with lock.hold(path, "fleet secrets"):
        vault = _open(path, identity)
        for name, value in values.items():
            _fit(path, name, specs[name], value)
            if specs[name].change is Change.PHASES and name in vault.names():
                vault.begin(name, Secret(value))
            else:
                vault.put(name, Secret(value))
        vault.save()
    kinds = {specs[name].change for name in values}
    bring = f"fleet secrets rotate {path.name}" if Change.PHASES in kinds else f"fleet apply {path.name}"
    where = "and what fleet roll then has to restart, " if Change.AT_ONCE in kinds else ""
    return f"{', '.join(sorted(values))} kept; {bring} {where}brings it to the hosts."


def _fit(path: Path, name: str, spec: SecretSpec, value: str) -> None:
    """Raise FleetError for a value that cannot be one; it is not repeated."""
    if not value or not value.isprintable():
        raise FleetError(
            subject=f"secret {name}", found="nothing, or more than one line", expected="one line on standard input",
            hint=f"fleet secrets set {path.name} {name} <FILE",
        )  # fmt: skip
    if spec.change is Change.STOP:
        raise FleetError(
            subject=f"secret {name}", found=f"a change {spec.change.value!r}: {spec.why}", expected="another secret",
            hint=f"fleet secrets rotate {path.name} {name} --interrupt makes another (docs/secrets.md)",
        )  # fmt: skip
    if spec.change is Change.PHASES and not PLAIN.fullmatch(value):
        raise FleetError(
            subject=f"secret {name}", found=f"a value of {len(value)} characters that not every server takes",
            expected="16 to 32 letters and digits, a letter first",
            hint=f"fleet secrets rotate {path.name} {name} makes one",
        )  # fmt: skip


def _open(path: Path, identity: Path | None) -> Vault:
    return Vault.open(path / "secrets.age", load_identities(identity or own_identity(path)))


def _run(command: Sequence[str], file: Path) -> None:
    program = Path(shutil.which(command[0]) or command[0]).resolve().name
    quiet = QUIET if program.startswith(("vim", "nvim")) else ()
    try:
        done = subprocess.run([command[0], *quiet, *command[1:], str(file)], check=False)
    except OSError as error:
        raise FleetError(
            subject="editor", found=f"{command[0]}: {error.strerror}", expected="one that can be started",
            hint="set EDITOR, or pass --editor",
        ) from None  # fmt: skip
    if done.returncode != 0:
        raise FleetError(
            subject="editor", found=f"{command[0]} ended with {done.returncode}", expected="0",
            hint="nothing was stored",
        )  # fmt: skip


@contextmanager
def private(name: str) -> Iterator[Path]:
    """A folder in memory, this user's alone, which is gone when the block ends, and after a kill -9 by the next one.

    Raises:
        FleetError: there is no file system in memory.
    """
    base = _memory()
    for old in base.glob(f"{PREFIX}*"):
        process = old.name.removeprefix(PREFIX).partition("-")[0]
        if old.stat().st_uid == os.getuid() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    ending = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in ending.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _memory() -> Path:
    mounted = {}
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, *_ = line.split()
            mounted[where] = kind
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for place in (MEMORY, runtime):
        if mounted.get(place) == "tmpfs" and os.access(place, os.W_OK):
            return Path(place)
    raise FleetError(
        subject=MEMORY, found="no file system in memory (tmpfs)", expected="one, so that no disk sees a secret",
        hint="mount one there, or use fleet secrets set, which reads standard input",
    )  # fmt: skip
