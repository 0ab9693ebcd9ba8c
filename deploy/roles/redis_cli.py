"""How the deployment speaks to Redis and to Sentinel, as shell: on the host itself, and as others dial them.

On the host itself without TLS, at a port that its firewall keeps for it: what mends a fleet whose certificates have
ended must not depend on them. The password goes through the environment, which only root can read.
"""

from __future__ import annotations

from deploy.model.catalog import SERVICES
from deploy.model.fleet import HostSpec
from deploy.roles.common import CA_FILE, pair

ADMIN_FILE = "/etc/fleet/redis.auth"
"""The password of the deployment's own user."""


def owner(port: str) -> str:
    """The service whose port this is: an instance of Redis, or Sentinel."""
    return "sentinel" if port == "sentinel" else "redis"


def tls(port: str) -> str:
    """What redis-cli is told to speak TLS with."""
    certificate, key = pair(owner(port))
    return f"--tls --cacert {CA_FILE} --cert {certificate} --key {key}"


def client(host: HostSpec, port: str, seconds: int = 20) -> str:
    """redis-cli on the host itself, as the deployment's user; where that is answered is asked each time."""
    return f"{_login(seconds)} -p {where(host, port)}"


def found_once(host: HostSpec, port: str) -> tuple[str, str]:
    """The same for a script that asks much: its first line, and redis-cli from then on."""
    return f"at={where(host, port)}", f'{_login(20)} -p "$at"'


def where(host: HostSpec, port: str) -> str:
    """The number of the port at which the host itself is answered without TLS, in words of the shell.

    It is asked, since it is what a change of `redis.tls` changes: without a password, which a port with TLS does not
    understand, and one without answers by asking for one.
    """
    service = SERVICES[owner(port)]
    wanted, number = host.local(service, port), service.port(port).number
    other = service.port(service.port(port).plain).number if wanted == number else number
    ask = f"REDISCLI_AUTH= timeout 5 redis-cli -p {wanted} PING >/dev/null 2>&1 </dev/null"
    return f"$({ask} && echo {wanted} || echo {other})"


def caller(host: HostSpec, port: str, address: str, seconds: int = 20) -> str:
    """redis-cli as another host dials it, with TLS where the settings say so."""
    found = SERVICES[owner(port)].port(port)
    secure = f" {tls(port)}" if host.mutual(found) else ""
    return f"{_login(seconds)}{secure} -h {address} -p {found.number}"


def otherwise(host: HostSpec, port: str, address: str) -> str:
    """A test that succeeds if this address has TLS where the settings say none, or the other way round."""
    found = SERVICES[owner(port)].port(port)
    secure = "" if host.mutual(found) else f" {tls(port)}"
    return f"REDISCLI_AUTH= timeout 5 redis-cli{secure} -h {address} -p {found.number} PING >/dev/null 2>&1"


def _login(seconds: int) -> str:
    return f"REDISCLI_AUTH=$(cat {ADMIN_FILE}) timeout {seconds} redis-cli --no-auth-warning --user fleet"
