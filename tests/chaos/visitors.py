"""Visitors of the web hosts with a ledger of their own: every answer that is not the one they came for is written down.

As a process: `python -m tests.chaos.visitors HOST`, inside a host's network; ends with its ledger (JSON) when standard
input is closed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PAUSE = 0.05
TIMEOUT = 30.0
SUBMISSION = {"problem": "sumas", "language": "py3", "source": "print(1)"}
ROUTES: dict[str, tuple[str, str, dict[str, Any] | None, int]] = {
    "home": ("GET", "/", None, 200),
    "rank": ("GET", "/schools/rank", None, 200),
    "login": ("POST", "/login", {"identity_id": 7}, 200),
    "certificates": ("POST", "/certificates", {"contest_id": 1, "certificate_cutoff": None, "ranking": []}, 202),
    "submit": ("POST", "/submit", SUBMISSION, 202),
}


@dataclass
class Visits:
    """One kind of visit: how many were answered as wanted, the slowest of them (seconds), and the others."""

    good: int = 0
    slowest: float = 0.0
    failed: list[tuple[float, str]] = field(default_factory=list)


def visit(host: str, kind: str, pause: float, found: Visits, stop: threading.Event) -> None:
    method, path, body, wanted = ROUTES[kind]
    text = json.dumps(body) if body else None
    while not stop.wait(pause):
        begun = time.time()
        try:
            connection = http.client.HTTPConnection(host, 80, timeout=TIMEOUT)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            said = answer.read(300).decode(errors="replace")
            connection.close()
            if answer.status == wanted:
                found.good += 1
                found.slowest = max(found.slowest, time.time() - begun)
            else:
                found.failed.append((begun, f"{answer.status} {said}"))
        except Exception as error:  # whatever keeps an answer from coming
            found.failed.append((begun, f"{type(error).__name__}: {error}"))


def _main() -> None:
    host, pause, stop = sys.argv[1], float(sys.argv[2]), threading.Event()
    visits = {kind: Visits() for kind in ROUTES}
    threads = [
        threading.Thread(target=visit, args=(host, kind, pause, visits[kind], stop), daemon=True) for kind in ROUTES
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT)
    print(json.dumps({kind: vars(one) for kind, one in visits.items()}))


@contextlib.contextmanager
def visiting(pid: int, address: str, pause: float = PAUSE) -> Iterator[dict[str, Visits]]:
    """Visitors in the network of this process as long as the block lasts; what they found is there after it.

    pause: seconds from an answer to the next visit of its kind.

    Nothing here imports pyinfra, whose gevent would make one thread of all of them.
    """
    process = subprocess.Popen(
        ["nsenter", "--target", str(pid), "--net", sys.executable, "-m", "tests.chaos.visitors", address, str(pause)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, Visits] = {}
    try:
        yield found
        said, _ = process.communicate(timeout=TIMEOUT * 2)
        for kind, one in json.loads(said).items():
            found[kind] = Visits(one["good"], one["slowest"], [(at, why) for at, why in one["failed"]])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


if __name__ == "__main__":
    _main()
