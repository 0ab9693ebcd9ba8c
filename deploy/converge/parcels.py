"""Sending a file of the controller's to a host, where it is too large to go through a script."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paramiko import SSHException
from pyinfra.api import Host
from pyinfra.api.exceptions import PyinfraError

from deploy.errors import FleetError
from deploy.model.resources import Parcel


def found(inventory: Path, subject: str, parcel: Parcel) -> Path:
    """The file that is meant, once it is known to be the right one.

    Raises:
        FleetError: it is not there, cannot be read, or has another sha256.
    """
    path = inventory / parcel.source
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FleetError(
            subject=subject,
            found=f"{path}: {error.strerror or type(error).__name__}",
            expected="a file on the controller that can be read",
            hint="put the release there, or correct its source in the inventory; nothing was changed",
        ) from None
    if digest != parcel.sha256:
        raise FleetError(
            subject=subject,
            found=f"{path} with sha256 {digest}",
            expected=parcel.sha256,
            hint="it is another file than the inventory means, or was cut short: fetch it anew, or correct the sha256",
        )
    return path


def send(host: Host, inventory: Path, subject: str, parcels: Sequence[Parcel]) -> None:
    """Put each file where the host's act expects it; the act checks its sha256 again. Nothing in it is a secret.

    Raises:
        FleetError: a file is not the one that is meant, or could not be put there (a full disk, a broken connection).
    """
    arguments: dict[str, Any] = {key: host.data.get(key) for key in ("_sudo", "_sudo_password") if host.data.get(key)}
    for parcel in parcels:
        path = found(inventory, subject, parcel)
        try:
            done = host.put_file(str(path), parcel.path, **arguments)
            why = "the transfer failed"
        except (SSHException, OSError, EOFError, PyinfraError) as error:
            done, why = False, f"{type(error).__name__}: {error}"
        if not done:
            raise FleetError(
                host=host.name,
                subject=subject,
                found=why,
                expected=f"{path.name} ({path.stat().st_size // 1024**2} MiB) on the host as {parcel.path}",
                hint="see that the host is reachable and has room in /var and /tmp, then run apply again",
            )
