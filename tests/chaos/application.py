"""The application as its users reach it: through a web host's port 80, or what a publisher sends to the broker."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
from collections.abc import Mapping

from deploy.model.catalog import SERVICES
from tests.chaos.failover import eventually, primary, redis, the_fleet
from tests.chaos.support import on

PAIR = "--cert /etc/omegaup/ssl/{0}.crt --key /etc/omegaup/ssl/{0}.key --cacert /etc/omegaup/ssl/ca.crt"
FRONTEND = PAIR.format("frontend")
CACHE = SERVICES["redis"].port("cache").number
GITSERVER = f"https://gitserver:{SERVICES['gitserver'].port('https').number}"
SUM = "print(sum(map(int, input().split())))"
CASES = [
    {"name": "1", "input": "1 2\n", "output": "3\n", "weight": 1},
    {"name": "2", "input": "20 22\n", "output": "42\n", "weight": 3},
]
LIMITS = {"time_ms": 1000, "memory_bytes": 64 * 2**20, "output_bytes": 2**20}
PROBLEM = "faults"


def first(service: str) -> str:
    return the_fleet().members(service)[0].name


def web(path: str, data: Mapping[str, object] | None = None) -> tuple[int, dict[str, object]]:
    """Ask a web host by HTTP, from itself."""
    host = first("frontend")
    body = f"-H 'Content-Type: application/json' --data {shlex.quote(json.dumps(data))}" if data is not None else ""
    said = on(host, f"curl -s -m 20 -w '\\n%{{http_code}}' {body} {shlex.quote(f'http://{host}{path}')}")
    text, _, code = said.rpartition("\n")
    try:
        answer: dict[str, object] = json.loads(text)
    except ValueError:
        answer = {"text": text}
    return int(code), answer


def certificate(code: str) -> str:
    """The PDF with this verification code, from a web host, in base 64."""
    return on(first("frontend"), f"curl -s -m 10 http://{first('frontend')}/certificate/{code} | base64 -w 0")


def pdf_about(encoded: str) -> str:
    """What pdfinfo says of a PDF (base 64, broken into lines or not). Fails if it does not open."""
    pdf = base64.b64decode(encoded.replace("\\n", ""))
    return subprocess.run(["pdfinfo", "-"], input=pdf, capture_output=True, check=True).stdout.decode()


def put_problem(alias: str = PROBLEM) -> None:
    settings = json.dumps({"limits": LIMITS, "cases": CASES})
    on(first("frontend"), f"curl -sf -m 10 {FRONTEND} -X PUT --data {shlex.quote(settings)} "
                          f"-H 'Content-Type: application/json' {GITSERVER}/problem/{alias}/settings")  # fmt: skip


def put_statement(alias: str, text: str) -> None:
    for part, body in (("settings", "{}"), ("statement/es", text), ("statement/en", text)):
        on(first("frontend"), f"curl -sf -m 10 {FRONTEND} -X PUT --data-binary {shlex.quote(body)} "
                              f"-H 'Content-Type: application/json' {GITSERVER}/problem/{alias}/{part}")  # fmt: skip


def fresh(pattern: str) -> None:
    """Nothing like this is cached any more."""
    host = primary(CACHE)
    for key in redis(host, CACHE, "--scan", "--pattern", pattern):
        redis(host, CACHE, "UNLINK", key)


def submit(source: str, **more: str) -> str:
    """Its identifier, once the frontend has promised to have it judged."""
    code, answer = web("/submit", {"problem": PROBLEM, "language": "py3", "source": source, **more})
    assert code == 202, answer
    return str(answer["id"])


def publish(exchange: str, key: str, payload: str) -> None:
    """A message that none of our publishers would send."""
    body = json.dumps({"vhost": "/", "properties": {"delivery_mode": 2}, "routing_key": key, "payload": payload,
                       "payload_encoding": "string"})  # fmt: skip
    api = "/usr/local/lib/fleet/rabbitmq-api"
    script = f"{api} POST exchanges/%2F/{exchange}/publish <<'JSON'\n{body}\nJSON"
    # Whichever member runs: the suites kill one now and then.
    eventually(
        "a broker takes it",
        lambda: any("routed" in on(host.name, script, check=False) for host in the_fleet().members("rabbitmq")),
    )
