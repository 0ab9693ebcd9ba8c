"""Speaking to one host through pyinfra's connector: a script on standard input, as root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paramiko import SSHException
from pyinfra.api import Host, StringCommand

from deploy.errors import FleetError

LIMIT_SECONDS = 900
"""A script that runs for longer is ended on the host too, not only given up on here."""


@dataclass(frozen=True)
class Reply:
    ok: bool
    stdout: list[str]
    stderr: list[str]


def run(host: Host, script: str, seconds: int = LIMIT_SECONDS) -> Reply:
    """Run a POSIX shell script as root on a connected host.

    The command line is constant; the script, with whatever secrets it holds, goes through standard input.

    Raises:
        FleetError: the connection broke, or root could not be had.
    """
    arguments: dict[str, Any] = {"_stdin": script, "_timeout": seconds + 30}
    become, check = "", '[ "$(id -u)" = 0 ] || { echo "no root: uid $(id -u)"; exit 77; }'
    if host.data.get("_sudo_password"):
        arguments |= {"_sudo": True, "_sudo_password": host.data.get("_sudo_password")}
        check = "true"
    elif host.data.get("_sudo"):
        # pyinfra's own sudo asks for a password at the terminal when it is refused; a run must not hang there.
        check = 'why=$(sudo -n -H true 2>&1 </dev/null) || { echo "no root: ${why#sudo: }"; exit 77; }'
        become = "sudo -n -H -- "
    command = f"{check}; exec {become}timeout -k 10 {seconds} sh -s"
    try:
        ok, output = host.run_shell_command(StringCommand(command), **arguments)
    except (SSHException, OSError, EOFError, TimeoutError) as error:
        raise FleetError(
            host=host.name,
            subject="connection",
            found=f"{type(error).__name__}: {error}",
            expected=f"an answer within {seconds} s",
            hint="see that the host is up and reachable, then run again: apply finishes what was begun",
        ) from None
    reply = Reply(ok, list(output.stdout_lines), list(output.stderr_lines))
    refused = next((line.removeprefix("no root: ") for line in reply.stdout if line.startswith("no root: ")), "")
    if not ok and refused:
        raise FleetError(
            host=host.name,
            subject="sudo" if host.data.get("_sudo") else "user",
            found=refused,
            expected="root, or a user that may become root without a password",
            hint="set ssh_user='root', or _sudo=True for a user with NOPASSWD sudo (or with _sudo_password)",
        )
    return reply
