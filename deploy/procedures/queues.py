"""What waits in the broker's queues, and what lies in their dead letters: to look at, to put back, to throw away.

It is done from a worker's host, by whoever can reach a broker there; nothing of it goes through a health check's user.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from deploy.converge import remote
from deploy.converge.inventory import folder, load
from deploy.errors import FleetError
from deploy.model.catalog import QUEUES, Queue
from deploy.model.profiles import REFERENCE
from deploy.procedures.session import session
from deploy.roles.rabbitmq_topology import dead
from deploy.roles.worker import QUEUE_TOOL

SECONDS = 120


def counts(name: str, identity: Path | None = None) -> list[dict[str, Any]]:
    """Each queue: purpose, messages, consumers, dead letters."""
    words = [word for queue in QUEUES for word in (queue.name, dead(queue.name))]
    found = {one["queue"]: one for one in _run(name, identity, "list", *words)}
    return [
        {
            "queue": queue.name, "purpose": queue.purpose, "messages": found[queue.name]["messages"],
            "consumers": found[queue.name]["consumers"], "dead": found[dead(queue.name)]["messages"],
        }
        for queue in QUEUES
    ]  # fmt: skip


def peek(name: str, queue: str, count: int, identity: Path | None = None) -> list[dict[str, Any]]:
    """The first dead letters of a queue; they stay.

    A queue's own messages are not shown: to be shown is to be delivered, and so many deliveries make a dead letter.
    """
    found: list[dict[str, Any]] = _run(name, identity, "peek", dead(_known(queue).name), "--count", str(count))
    return found


def requeue(name: str, queue: str, count: int, identity: Path | None = None) -> int:
    """Dead letters back into their queue; how many. What is rejected again meanwhile is not taken a second time."""
    known = _known(queue)
    return int(
        _run(
            name, identity, "requeue", dead(known.name), "--count", str(count), "--exchange", known.exchange, "--key",
            known.name,
        )
    )  # fmt: skip


def purge(name: str, queue: str, dead_letters: bool, identity: Path | None = None) -> int:
    """Throw all messages of a queue away, or its dead letters; how many there were."""
    known = _known(queue)
    return int(_run(name, identity, "purge", dead(known.name) if dead_letters else known.name))


def _known(queue: str) -> Queue:
    wanted = queue.removesuffix(dead(""))
    for one in QUEUES:
        if one.name.lower() == wanted.lower():
            return one
    raise FleetError(
        subject="queue", found=repr(queue), expected=f"one of {', '.join(one.name for one in QUEUES)}",
        hint="fleet queue list shows them",
    )  # fmt: skip


def _run(name: str, identity: Path | None, *words: str) -> Any:
    """What the tool says on the first of the workers' hosts."""
    _, fleet = load(folder(name))
    if fleet.profile is not REFERENCE:
        raise FleetError(
            subject="queue", found=f"profile {fleet.profile.name}", expected="the reference workers, who have the tool",
            hint="rabbitmqctl list_queues on a broker's host shows the queues",
        )  # fmt: skip
    hosts = fleet.members("worker")
    if not hosts:
        raise FleetError(
            subject="queue", found="no host with workers", expected="one, from which a broker can be reached",
            hint="give a host the group worker",
        )  # fmt: skip
    host = hosts[0].name
    with session(name, limit=host, identity=identity, look=False) as opened:
        reply = remote.run(opened.run.hosts[host], f"{QUEUE_TOOL} {shlex.join(words)}\n", seconds=SECONDS)
    if not reply.ok:
        said = " ".join((reply.stderr or reply.stdout)[-2:])
        raise FleetError(
            host=host, subject=f"queue {words[0]}", found=said or "no word of why", expected="an answer of a broker",
            hint="fleet status shows the brokers; fleet apply brings a host the tool",
        )  # fmt: skip
    return json.loads("\n".join(reply.stdout))
