"""What each TLS port of each host serves and accepts, against what lies on its disk and what the CA says."""

from __future__ import annotations

import secrets as random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deploy.converge import certificates, remote
from deploy.converge.certificates import Canary, Have, Served
from deploy.converge.engine import Run
from deploy.converge.inventory import load, open_keys
from deploy.converge.together import together
from deploy.errors import FleetError
from deploy.model.catalog import SSL_DIR, Port, Service
from deploy.model.fleet import Fleet, HostSpec
from deploy.model.resources import Unit
from deploy.procedures.pki.hosts import Seen, ask, ask_all
from deploy.procedures.pki.status import BAD, issuer_of, judged
from deploy.roles.common import CA_FILE, CRL_FILE
from deploy.trust.authorities import Authorities
from deploy.trust.certificates import describe

PATIENCE = 15.0
"""Seconds that servers have for a reload, which they do after they were told to, or for a start."""


@dataclass(frozen=True)
class Verdict:
    """One port. `served`, `disk`: serials, empty if there is none. `do`: what mends it."""

    host: str
    service: str
    port: int
    served: str
    disk: str
    well: bool
    found: str = ""
    do: str = ""


@dataclass(frozen=True)
class Verified:
    """`files`: what is wrong with the CA's files of a host."""

    ports: tuple[Verdict, ...]
    files: tuple[FleetError, ...] = ()
    untold: tuple[FleetError, ...] = field(default=())

    @property
    def well(self) -> bool:
        return all(one.well for one in self.ports) and not self.files and not self.untold

    @property
    def errors(self) -> list[FleetError]:
        """All that is wrong, as refusals."""
        found = [
            FleetError(
                host=one.host, subject=f"{one.service}, port {one.port}", found=one.found,
                expected="the certificate that lies on the disk, good under the CA", hint=one.do,
            )
            for one in self.ports
            if not one.well
        ]  # fmt: skip
        return [*self.untold, *self.files, *found]


def verify(path: Path, identity: Path | None = None) -> Verified:
    """Ask every port of every host that can be reached.

    Raises:
        FleetError: the inventory or its CA cannot be read.
    """
    inventory, fleet = load(path)
    keys = open_keys(path, identity)
    run = Run(fleet, path, keys, {}, frozenset())
    return judge(fleet, ask_all(inventory, fleet, served=True), keys.authorities, loaders(run))


def verify_run(run: Run) -> Verified:
    """The same in a run whose hosts are connected: those that it may act on.

    What loads new files has a moment for it.
    """
    hosts = {name: host for name, host in run.hosts.items() if name in run.targets}
    units, until = loaders(run), time.monotonic() + PATIENCE
    while True:
        found = judge(run.fleet, ask(run.fleet, hosts, served=True), run.keys.authorities, units)
        if found.well or time.monotonic() >= until:
            return found
        time.sleep(1)


def loaders(run: Run) -> Mapping[tuple[str, str], Unit]:
    """(host, certificate) -> the unit that serves with it: the last of those that load it."""
    return {
        (host.name, loaded): item
        for host in run.fleet.hosts
        for item in run.state(host.name).resources
        if isinstance(item, Unit)
        for loaded in (*item.reload_files, *item.restart_files)
    }


def judge(
    fleet: Fleet,
    seen: Seen,
    authorities: Authorities,
    units: Mapping[tuple[str, str], Unit],
    now: datetime | None = None,
) -> Verified:
    """What was seen, port by port."""
    moment = now or datetime.now(UTC)
    verdicts, wrong = [], []
    for host in fleet.hosts:
        if host.name not in seen.have:
            continue
        have, served = seen.have[host.name], seen.served[host.name]
        wrong += list(_files(host, have, authorities))
        for service, port in certificates.ports(host):
            unit = units.get((host.name, f"{SSL_DIR}/{service.name}.crt"))
            shown = served.get(port.number, Served("", "not asked"))
            verdicts.append(_port(host, service, port, have, shown, authorities, unit, moment))
    return Verified(tuple(verdicts), tuple(wrong), seen.untold)


def _files(host: HostSpec, have: Have, authorities: Authorities) -> Iterator[FleetError]:
    for path, found, wanted in (
        (CA_FILE, have.authority, authorities.bundle),
        (CRL_FILE, have.revocations, authorities.lists),
    ):
        if _squeezed(found) != _squeezed(wanted):
            yield FleetError(
                host=host.name, subject=path, found="another content" if found else "nothing",
                expected="what the CA has now", hint="fleet apply brings it",
            )  # fmt: skip


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _port(
    host: HostSpec, service: Service, port: Port, have: Have, shown: Served, authorities: Authorities,
    unit: Unit | None, now: datetime,
) -> Verdict:  # fmt: skip
    name = unit.name if unit else service.name

    def verdict(found: str = "", do: str = "", served: str = "", disk: str = "") -> Verdict:
        return Verdict(host.name, service.name, port.number, served, disk, not found, found, do)

    try:
        disk = describe(have.certificates.get(service.name, ""))
    except FleetError:
        return verdict("no certificate on the disk", "fleet apply issues one")
    if not shown.pem and port.owed:
        return Verdict(host.name, service.name, port.number, "", disk.serial, True)
    if not shown.pem:
        new = "; fleet roll, if it was told to serve TLS since its start" if port.starttls else ""
        return verdict(f"nothing served: {shown.verdict}", f"see systemctl status {name}{new}", disk=disk.serial)
    served = describe(shown.pem)
    both = {"served": served.serial, "disk": disk.serial}
    if served.fingerprint != disk.fingerprint:
        return verdict(f"an old one is served, {served.serial}; {disk.serial} lies on the disk", _reload(unit), **both)
    if issuer_of(shown.pem, authorities) is None:
        return verdict("from an authority that is not trusted (any more)", "fleet apply issues another", **both)
    state, why = judged(served, shown.pem, authorities, authorities.reissue(), now, 0)
    if state == BAD:
        return verdict(why, "fleet apply issues another", **both)
    if shown.verdict != "ok":
        return verdict(f"refused by the host's own OpenSSL: {shown.verdict}", "fleet apply, then fleet pki status",
                       **both)  # fmt: skip
    return verdict(**both)


def _reload(unit: Unit | None) -> str:
    if unit is None:
        return "fleet apply"
    if unit.rolling and any(path.startswith(SSL_DIR) for path in unit.restart_files):
        return f"fleet roll restarts {unit.name}, which loads it then"
    return f"fleet apply; if it finds nothing to do: systemctl reload-or-restart {unit.name}"


# -- canaries ---------------------------------------------------------------------------------------------


def prove(
    run: Run, canaries: Sequence[Canary], *, taken: Iterable[str] = (), refused: Iterable[str] = (),
    revoked: Iterable[str] = (),
) -> tuple[int, list[FleetError]]:  # fmt: skip
    """(ports that refused what they should, what is wrong) once all canaries were shown to every port of the targets.

    What loads new files has a moment for it.
    """
    until = time.monotonic() + PATIENCE
    while True:
        answers = show(run, canaries)
        wrong = list(wrongly(run.fleet, answers, taken, refused, revoked))
        if not wrong or time.monotonic() >= until:
            out = {*refused, *revoked}
            return sum(answer is False for (_, _, name), answer in answers.items() if name in out), wrong
        time.sleep(1)


def show(run: Run, canaries: Sequence[Canary]) -> dict[tuple[str, int, str], bool | None]:
    """(host, port, canary) -> whether it was taken, None where nobody answered; all ports of the run's targets."""

    def work(name: str) -> dict[tuple[str, int], bool | None]:
        host, nonce = run.fleet.host(name), random.token_hex(8)
        numbers = [port.number for _, port in certificates.ports(host)]
        reply = remote.run(run.hosts[name], certificates.shows(host, numbers, canaries, nonce), seconds=600)
        return certificates.parse_shown(name, reply.stdout, nonce)

    found = together([name for name in run.hosts if name in run.targets], work)
    return {(host, port, name): taken for host, one in found.items() for (name, port), taken in one.items()}


def wrongly(
    fleet: Fleet, shown: Mapping[tuple[str, int, str], bool | None], taken: Iterable[str] = (),
    refused: Iterable[str] = (), revoked: Iterable[str] = (),
) -> Iterator[FleetError]:  # fmt: skip
    """Ports that did not take, or refuse, what they should have. `revoked` are to be refused where lists are read."""
    listed = set(revoked)
    wanted = {**dict.fromkeys(taken, True), **dict.fromkeys((*refused, *listed), False)}
    for (host, number, name), answer in shown.items():
        service, port = next(one for one in certificates.ports(fleet.host(host)) if one[1].number == number)
        if name not in wanted or answer is wanted[name] or (name in listed and not port.lists):
            continue
        if answer is None and port.owed:
            continue
        said = {True: "taken", False: "refused", None: "no answer"}[answer]
        yield FleetError(
            host=host, subject=f"{service.name}, port {port.number}", found=f"{name}: {said}",
            expected="taken" if wanted[name] else "refused",
            hint="what it has loaded is not what the disk has: fleet apply, fleet pki verify",
        )  # fmt: skip
