"""The database's members as the moves of its writes need them: looked at, asked to do a part, or known to be silent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api import Config, Host, State
from pyinfra.context import ctx_state

from deploy.converge import lock, remote
from deploy.converge.engine import Run
from deploy.converge.inventory import connect_one, folder, load, open_keys
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.procedures.session import ended
from deploy.roles import mysql_members
from deploy.roles.mysql import ROLE_TOOL
from deploy.roles.mysql_members import Member

LOOK_SECONDS = 60
"""After which a host that hangs is as good as one that does not answer."""


@dataclass
class Members:
    """The database's members: those that answer, looked at; and why the others do not."""

    run: Run
    seen: dict[str, Member]
    silent: dict[str, str] = field(default_factory=dict)

    @classmethod
    def looked_at(cls, run: Run, silent: dict[str, str] | None = None) -> Members:
        """By the last look at each."""
        seen = {one.name: one for one in mysql_members.members(run.fleet, run.snapshots)}
        return cls(run, seen, {} if silent is None else silent)

    def connected(self, name: str) -> bool:
        """Whether the host at least lets the controller in."""
        return name in self.run.hosts

    def touch(self) -> None:
        """Write down what is about to be done while writers do not wait for it yet.

        Raises:
            FleetError: it cannot be.
        """
        together(self.seen, self.run.touch)

    def ask(self, name: str, *words: str, first: tuple[str, ...] = (), seconds: int = 30) -> str:
        """Run a part on a member; its one line. first: another part, without which this one is not done; in the same
        call, as writers wait for both.

        Raises:
            FleetError: it did not come about.
        """
        script = " && ".join(f"{ROLE_TOOL} {' '.join(part)}" for part in (first, words) if part)
        said = self._done(
            name, f"{script}\n", seconds, subject=f"mysql {words[0]}",
            expected="the step to succeed", hint="fleet db status shows where the members stand",
        )  # fmt: skip
        return said[-1] if said else ""

    def without_server(self, name: str) -> None:
        """Prove that a host on which no server is installed runs none.

        Raises:
            FleetError: it does.
        """
        self._done(
            name, "! pgrep -ax 'mariadbd|mysqld'\n", 30, subject="mysql fence",
            expected="no server on a host on which none is installed", hint="end it, or switch the host off",
        )  # fmt: skip

    def _done(self, name: str, script: str, seconds: int, *, subject: str, expected: str, hint: str) -> list[str]:
        """What a script on a member says; FleetError with its last words if it fails."""
        self.run.touch(name, tell=name in self.seen)
        reply = remote.run(self.run.hosts[name], script, seconds=seconds)
        self.run.did(name, {"key": subject, **({} if reply.ok else {"failed": True})})
        if not reply.ok:
            said = " ".join((reply.stdout or reply.stderr)[-2:])
            raise FleetError(
                host=name, subject=subject, found=self.run.masker(said or "no word of why"), expected=expected,
                hint=hint,
            )  # fmt: skip
        return reply.stdout


@contextmanager
def members(name: str, identity: Path | None = None, lock_for: str | None = None) -> Iterator[Members]:
    """The database's members, looked at; one that does not answer is no obstacle yet, nor one that is not fit."""
    path = folder(name)
    inventory, fleet = load(path)
    if not fleet.profile.service("mysql").replicated:
        raise FleetError(
            subject="database", found=f"one server without replicas (profile {fleet.profile.name})",
            expected="members between which the writes could move",
            hint="fleet status shows whether it answers; docs/upstream.md says what there is instead",
        )  # fmt: skip
    hosts = {host.name: host for host in inventory if fleet.host(host.name).has("mysql")}
    state = State(inventory, Config(CONNECT_TIMEOUT=5))
    with ctx_state.use(state):
        silent: dict[str, str] = {}
        answers: dict[str, Host] = {}

        def reach(one: str) -> None:
            try:
                connect_one(hosts[one])
                answers[one] = hosts[one]
            except FleetError as error:
                silent[one] = error.found

        with lock.hold(path, lock_for) if lock_for else nullcontext():
            try:
                run = Run(fleet, path, open_keys(path, identity, profile=fleet.profile), answers, frozenset())
                if lock_for:
                    run.audited(lock_for)

                def look(one: str) -> None:
                    try:
                        run.look(one, role="mysql", seconds=LOOK_SECONDS)
                    except FleetError as error:
                        silent[one] = error.found

                together(hosts, reach)
                together(tuple(answers), look)
                with ended(run):
                    yield Members.looked_at(run, silent)
            finally:
                for host in hosts.values():
                    if host.connected:
                        host.disconnect()
