"""The catalog's health checks, asked on each service's own host with the service's own certificate."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.model.catalog import SSL_DIR, Check, Health, Service
from deploy.model.fleet import HostSpec
from deploy.roles.proxy import SOCKET
from deploy.roles.rabbitmq import MONITORING_FILE
from deploy.roles.redis_cli import caller, client
from deploy.roles.redis_members import INSTANCES


@dataclass(frozen=True)
class Result:
    """One check of one service on one host. `seconds` is how long the last try took."""

    host: str
    service: str
    label: str
    endpoint: str
    port: int
    well: bool
    seconds: float
    detail: str
    degraded: bool = False
    """It answers, but says itself that a part of it is not well."""


def checks(host: HostSpec, only: str = "") -> Iterator[tuple[Service, Health]]:
    """All checks of a host, or those of one service."""
    for service in host.services:
        if only and service.name != only:
            continue
        for health in service.health:
            yield service, health


def endpoint(host: HostSpec, service: Service, health: Health) -> str:
    """What is asked, as a person would write it."""
    port = service.port(health.port).number
    if health.check is Check.HTTP:
        return f"http://{host.name}:{port}{health.path}"
    if health.check is Check.HTTPS:
        return f"https://{host.name}:{port}{health.path}"
    return {
        Check.REDIS: "PING",
        Check.TCP: "TCP",
        Check.RABBITMQ: f"HTTP API {health.path}",
        Check.SENTINEL: "SENTINEL CKQUORUM",
        Check.PROXY: "every backend has a server",
    }[health.check]


def script(host: HostSpec, nonce: str, only: str = "", tries: int = 0) -> str:
    """All checks of a host side by side. `tries`: how often each is asked until it is well; 0: as its catalog says."""
    parts = [
        "export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "folder=$(mktemp -d) && trap 'rm -rf \"$folder\"' EXIT",
        "now() { cut -d' ' -f1 /proc/uptime; }",
    ]
    items = list(checks(host, only))
    for number, (service, health) in enumerate(items):
        ask = _ask(host, service, health)
        parts.append(f"""\
( n=0; until begun=$(now); detail=$({ask}) 2>"$folder/{number}.err"; do
    n=$((n + 1)); [ $n -lt {tries or health.retries} ] || {{ well=no; break; }}; sleep 1; done
  [ -z "${{well:-}}" ] || detail="$detail $(tail -n 1 "$folder/{number}.err")"
  detail=$(printf %s "$detail" | tr '\\n\\t' '  ' | cut -c1-200)
  printf '%s\\t%s\\t%s\\t%s\\n' "${{well:-yes}}" "$begun" "$(now)" "$detail" >"$folder/{number}" ) &""")
    parts.append("wait")
    parts += [f"echo '@@{nonce} {number}'; cat \"$folder/{number}\"" for number in range(len(items))]
    body = "\n".join(parts)
    return f"health() {{\n{body}\n}}\nhealth </dev/null\n"


def _ask(host: HostSpec, service: Service, health: Health) -> str:
    port, limit = service.port(health.port).number, health.timeout
    curl = f"curl -sS --max-time {limit} -w ' %{{http_code}}'"
    match health.check:
        case Check.HTTP:
            where = "127.0.0.1" if service.port(health.port).loopback else host.name
            return _answered_200(f"{curl} http://{where}:{port}{shlex.quote(health.path)}")
        case Check.HTTPS:
            pair = f"--cert {SSL_DIR}/{service.name}.crt --key {SSL_DIR}/{service.name}.key --cacert {SSL_DIR}/ca.crt"
            return _answered_200(f"{curl} {pair} https://{host.name}:{port}{shlex.quote(health.path)}")
        case Check.TCP:
            # A server that accepts but never greets is not well.
            greeting = f"exec 3<>/dev/tcp/{host.address}/{port} && head -c 4 <&3 >/dev/null && echo open"
            return f"timeout {limit} bash -c '{greeting}'"
        case Check.REDIS:
            ping = f"{caller(host, health.port, host.address, limit)} PING"
            return f'reply=$({ping}) && echo "$reply" && [ "$reply" = PONG ]'
        case Check.SENTINEL:
            sentinel = client(host, health.port, limit)
            return " && ".join(f"{sentinel} -e SENTINEL CKQUORUM {name}" for name in INSTANCES)
        case Check.PROXY:
            return (
                f"stat=$(echo 'show stat' | timeout {limit} socat -t {limit} - UNIX-CONNECT:{SOCKET}) && "
                "printf '%s\\n' \"$stat\" | awk -F, "
                '\'$2 == "BACKEND" { n++; if ($18 !~ /^UP/) down = down " " $1 } '
                'END { if (down != "" || !n) { print "nobody serves:" down; exit 1 } print n " backends up" }\''
            )
        case Check.RABBITMQ:
            login = f'printf \'user = "%s"\\n\' "$(cat {MONITORING_FILE})"'
            # It is there whether or not others are let in by TLS; how those fare is seen from their hosts.
            return _answered_200(f"{login} | {curl} --config - http://127.0.0.1:{port}{shlex.quote(health.path)}")


def _answered_200(curl: str) -> str:
    return f'reply=$({curl}); code=$?; echo "$reply"; [ $code = 0 ] && [ "${{reply##* }}" = 200 ]'


def parse(host: HostSpec, output: Sequence[str], nonce: str, only: str = "") -> list[Result]:
    """The results in a health script's output; what it does not mention is not well."""
    items = list(checks(host, only))
    lines: dict[int, str] = {}
    number = -1
    for line in output:
        if line.startswith(f"@@{nonce} "):
            number = int(line.rpartition(" ")[2])
        elif number >= 0:
            lines[number] = line
    results = []
    for number, (service, health) in enumerate(items):
        well, begun, ended, detail = (lines.get(number, "").split("\t", 3) + [""] * 4)[:4]
        seconds = float(ended or 0) - float(begun or 0)
        results.append(_result(host, service, health, well == "yes", seconds, detail or "no answer"))
    return results


def unreachable(host: HostSpec, why: str) -> list[Result]:
    """All checks of a host that could not be asked."""
    return [_result(host, service, health, False, 0.0, why) for service, health in checks(host)]


def _result(host: HostSpec, service: Service, health: Health, well: bool, seconds: float, detail: str) -> Result:
    port = service.port(health.port).number
    where = endpoint(host, service, health)
    said = detail.strip()
    degraded = well and health.check in {Check.HTTP, Check.HTTPS} and '"degraded"' in said
    return Result(host.name, service.name, health.label, where, port, well, seconds, said, degraded)
