"""TLS of the database, end to end between a client's library and the server: HAProxy between them passes it through.

Nothing of it can begin at once in a fleet that runs without. A member serves TLS from its next start on, so `roll`
brings it. Clients prefer TLS from the first `apply` on: they take what the server they come to has, so neither that
roll nor theirs costs a request. Once every member serves it and every client's process has loaded what makes it prefer
TLS, the next `apply` shuts plain text out (`ctx.live.encrypted`): replicas and clients insist, accounts want the
certificate of their role, and servers want TLS of whoever comes by network. All of that is hot, and stays so: the
accounts say it. A new fleet is shut from the beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from deploy.model.catalog import SERVICES, Service
from deploy.model.fleet import Context
from deploy.model.observed import Answer, Snapshot
from deploy.model.resources import File
from deploy.roles.common import CA_FILE, CRL_FILE, pair

CERTIFICATE, KEY = pair("mysql")
VERSIONS = "TLSv1.2,TLSv1.3"
CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""Of TLS 1.2: with forward secrecy, authenticated. (The server hands the list to OpenSSL, which keeps those of 1.3.)"""

FILES = {"ssl_ca": CA_FILE, "ssl_cert": CERTIFICATE, "ssl_key": KEY, "ssl_crl": CRL_FILE}
"""Variables of both servers, and what they lead to."""
RESTART_ONLY = (*FILES, "ssl_cipher", "tls_version")

CLIENTS = ("frontend", "grader", "worker")
"""Services whose hosts have a file that says whether they insist."""
ONLY = "only "
"""How the look prints what an account requires: `only SUBJECT`, or `nothing`."""


def on(ctx: Context) -> bool:
    return ctx.settings.mysql.tls


def shut(ctx: Context) -> bool:
    """Whether nobody comes in plain text."""
    return on(ctx) and "mysql" in ctx.live.encrypted


def variables(ctx: Context) -> dict[str, str]:
    """Running variables as the server prints them: empty for what is not set."""
    return {
        **{name: path if on(ctx) else "" for name, path in FILES.items()},
        "ssl_cipher": CIPHERS if on(ctx) else "",
        "tls_version": VERSIONS,
        "require_secure_transport": "ON" if shut(ctx) else "OFF",
    }


def subject(ctx: Context, role: str) -> str:
    """The subject of a role's certificates, as MariaDB's REQUIRE SUBJECT wants it.

    The issuer is not named: the server takes certificates of the CA alone, and of both while that changes.
    """
    return f"/O={ctx.fleet.name}/OU={role}/CN={role}"


def replication(ctx: Context) -> str:
    """How a replica comes to its primary: the part of CHANGE MASTER that says so."""
    if not shut(ctx):
        return "MASTER_SSL = 0, MASTER_SSL_VERIFY_SERVER_CERT = 0"
    return (
        f"MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 1, MASTER_SSL_CA = '{CA_FILE}', "
        f"MASTER_SSL_CERT = '{CERTIFICATE}', MASTER_SSL_KEY = '{KEY}', MASTER_SSL_CRL = '{CRL_FILE}'"
    )


def shown(ctx: Context) -> str:
    """The same as the look prints it, behind `by Slave_Pos`."""
    return " over TLS" if shut(ctx) else ""


# -- clients ----------------------------------------------------------------------------------------------


REQUIRED, PREFERRED, OFF = "required\n", "preferred\n", "off\n"


def insist_file(service: str) -> str:
    """Read at each new connection: `required`; or `preferred` (or `off`), and a server without TLS will do."""
    return f"/etc/omegaup/{service}/mysql.tls"


def insists(ctx: Context, service: str) -> File:
    """To be yielded after all else that a service loads: `preferred` says that what makes it prefer TLS was written.

    Without TLS as well: what was started with it, and is not restarted yet, must not insist any more.
    """
    content = REQUIRED if shut(ctx) else PREFERRED if on(ctx) else OFF
    return File(path=insist_file(service), content=content, check='grep -qxE "required|preferred|off" "$CANDIDATE"')


def client(ctx: Context, service: str) -> dict[str, dict[str, str]]:
    """The part of a Python service's configuration that is about TLS to the database."""
    if not on(ctx):
        return {}
    shown, key = pair(service)
    return {
        "tls": {"ca": CA_FILE, "crl": CRL_FILE, "certificate": shown, "key": key, "insist_file": insist_file(service)}
    }


# -- whether plain text can be shut out ----------------------------------------------------------------------


def can_be_shut(ctx: Context, seen: Mapping[str, Snapshot], answers: Mapping[str, Answer], unit: str) -> bool:
    """Whether nobody needs plain text any more, or it is shut out already.

    answers: what the members' servers say, by host. unit: theirs. A host that was not looked at may need it.
    """
    if not on(ctx):
        return False
    said = (pair for answer in answers.values() for pair in answer.values.items())
    if any(name.startswith("requires ") and value.startswith(ONLY) for name, value in said):
        return True
    members = all(
        host.name in seen and _serves(seen[host.name], answers.get(host.name), unit)
        for host in ctx.fleet.members("mysql")
    )
    return members and all(
        host.name in seen and _prefers(seen[host.name], SERVICES[name], SERVICES[name].units_on(ctx.release))
        for name in CLIENTS
        for host in ctx.fleet.members(name)
    )


def _serves(seen: Snapshot, answer: Answer | None, unit: str) -> bool:
    """It serves TLS, or will when it starts: a server that cannot load its certificate does not start."""
    state = seen.units.get(unit)
    if state is None or not state.running:
        return True
    return answer is not None and answer.ok and answer.values.get("variable ssl_cert") == CERTIFICATE


def _prefers(seen: Snapshot, service: Service, units: Iterable[str]) -> bool:
    """What runs has loaded all that lies on the disk, and what makes it prefer TLS lies there; or nothing runs."""
    running = [seen.units[name] for name in units if name in seen.units and seen.units[name].running]
    loaded = all(
        bool(state.stamps)
        and all(path not in seen.files or seen.files[path].sha256 == stamp for path, stamp in state.stamps.items())
        for state in running
    )
    word = seen.files.get(insist_file(service.name))
    return not running or (loaded and word is not None and word.sha256 in {_hash(PREFERRED), _hash(REQUIRED)})


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
