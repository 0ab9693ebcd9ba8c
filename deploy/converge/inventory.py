"""From an inventory on disk, in pyinfra's own form, to a Fleet and a connected pyinfra State."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pyinfra.api import Config, Inventory, State
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.context import ctx_config, ctx_state
from pyinfra_cli.inventory import make_inventory

from deploy.converge.desired import ROOT, secret_specs
from deploy.converge.engine import Keys
from deploy.converge.together import together
from deploy.errors import FleetError, FleetErrors
from deploy.model import checks, fleet
from deploy.model.fleet import Fleet
from deploy.model.profiles import REFERENCE, Profile
from deploy.trust.authorities import Authorities
from deploy.trust.authority import Authority, Signer
from deploy.trust.identities import load_identities
from deploy.trust.vault import Vault

# Its threads print tracebacks of connections that fail; what failed is said by connect_one.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

MARKER = "inventory"
"""Key of the hosts' data by which an inventory says in which folder it lies."""


def folder(name: str) -> Path:
    """The folder of an inventory given by its name below inventories/, by a folder, or by its inventory.py.

    Raises:
        FleetError: there is none.
    """
    for candidate in (ROOT / "inventories" / name, Path(name), Path(name).parent):
        if (candidate / "inventory.py").is_file() and (candidate.name == Path(name).name or Path(name).exists()):
            return candidate.resolve()
    known = sorted(path.parent.name for path in (ROOT / "inventories").glob("*/inventory.py"))
    raise FleetError(
        subject=f"inventory {name}",
        found="no such inventory",
        expected=f"one of {', '.join(known)}, or a folder with an inventory.py",
        hint="copy inventories/production to begin your own",
    )


def load(path: Path) -> tuple[Inventory, Fleet]:
    """Read an inventory with pyinfra's own reader and check it.

    Raises:
        FleetError, FleetErrors: what is wrong with it.
    """
    try:
        with ctx_state.use(State()), ctx_config.use(Config()):
            inventory = make_inventory(str(path / "inventory.py"))
    except Exception as error:  # an inventory is the operator's own Python: it can raise anything
        cause = getattr(error, "exception", error)
        raise FleetError(
            subject=str(path / "inventory.py"),
            found=f"{type(cause).__name__}: {cause}",
            expected="an inventory that pyinfra can read",
            hint="inventories/production/inventory.py shows the form",
        ) from None
    return inventory, fleet_of(inventory, path.name)


def fleet_of(inventory: Inventory, name: str) -> Fleet:
    """The checked Fleet of a pyinfra inventory.

    Raises:
        FleetErrors: what is wrong with it.
    """
    twice = [_named_twice(host) for host in inventory if len(set(host.groups)) < len(host.groups)]
    if twice:
        raise FleetErrors(twice)
    hosts = {
        host.name: fleet.HostInput(
            frozenset(host.groups), {key: value for key, value in host.data.dict().items() if key != MARKER}
        )
        for host in inventory
    }
    built = fleet.build(name, hosts)
    checks.check(built)
    return built


def _named_twice(host: Host) -> FleetError:
    """pyinfra takes hosts of one name for one host, with the data of the last."""
    groups = sorted({group for group in host.groups if host.groups.count(group) > 1} - {"inventory"})
    return FleetError(
        host=host.name,
        subject="inventory",
        found=f"the name twice{' in ' + ', '.join(groups) if groups else ''}",
        expected="one host for each name",
        hint="give each host a name of its own, and name it once in a group",
    )


def open_keys(
    path: Path, identity: Path | None = None, environ: dict[str, str] | None = None, profile: Profile = REFERENCE,
) -> Keys:  # fmt: skip
    """Open an inventory's secrets and the public part of its CA; the CA's key is opened when it is needed.

    profile: the fleet's, which says what secrets there must be.

    Raises:
        FleetError: they are missing or cannot be opened with this identity.
    """
    identities = load_identities(identity or own_identity(path), environ=environ)
    vault = Vault.open(path / "secrets.age", identities)
    missing = sorted(set(secret_specs(profile)) - set(vault.names()))
    if missing:
        raise FleetError(
            subject=str(path / "secrets.age"),
            found=f"no secret named {', '.join(missing)}",
            expected="every secret that the roles need",
            hint=f"fleet secrets init {path.name} makes those that are missing and keeps the others",
        )
    authorities = Authorities.load(path / "pki")
    opened: dict[Path, Signer] = {}

    def unlock(authority: Authority) -> Signer:
        if authority.directory not in opened:
            opened[authority.directory] = authority.unlock(identities)
        return opened[authority.directory]

    return Keys(vault, authorities, unlock)


def own_identity(path: Path) -> Path | None:
    """An identity that the inventory names itself, in a file `identity` (the lab's do); else the operator's own."""
    pointer = path / "identity"
    if os.environ.get("FLEET_IDENTITY") or not pointer.is_file():
        return None
    return Path(os.path.expanduser(pointer.read_text().strip()))


def connect(inventory: Inventory, fleet: Fleet, targets: frozenset[str]) -> tuple[State, dict[str, Host]]:
    """Connect, all at once, to the hosts to be acted on and to those that have to be asked who leads.

    Raises:
        FleetError: a host cannot be reached; nothing is done on the others then.
    """
    state = State(inventory, Config(FAIL_PERCENT=0, CONNECT_TIMEOUT=10))
    wanted = targets | fleet.witnesses()
    hosts = {host.name: host for host in inventory if host.name in wanted}
    with ctx_state.use(state):
        together(hosts, lambda name: connect_one(hosts[name]))
    for name in targets:
        state.activate_host(hosts[name])
    return state, hosts


def connect_one(host: Host) -> None:
    """Connect to a host.

    Raises:
        FleetError: it cannot be reached, is not the host that was pinned, or the operator's own key cannot be used.
    """
    try:
        host.connect(show_errors=False, raise_exceptions=True)
    except PyinfraError as error:
        text = str(error)
        expected, hint = _connection_advice(text, isinstance(error, ConnectError))
        raise FleetError(
            host=host.name,
            subject=f"SSH to {host.data.get('ssh_hostname') or host.name}",
            found=text,
            expected=expected,
            hint=hint,
        ) from None


def _connection_advice(text: str, reached: bool) -> tuple[str, str]:
    """What was expected of a connection that failed with these words, and what to do."""
    if "no host key" in text.lower():
        return (
            "a host key that is pinned for it",
            "put its public host key, taken at its console, into the inventory's known_hosts",
        )
    if "host key" in text.lower():
        return (
            "the host key that is pinned for it",
            "find out why the key changed before you trust it: it may not be your host",
        )
    if not reached:
        return (
            "a private SSH key that can be used",
            "correct ssh_key in the inventory; a key with a passphrase goes through ssh-agent",
        )
    return (
        "a connection within 10 s",
        "see that the host is up, the address right and your key allowed; commands with --limit can leave it out",
    )
