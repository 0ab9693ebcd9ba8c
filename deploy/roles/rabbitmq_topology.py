"""What lies in the broker: users, permissions, exchanges, queues, bindings, policies; and nothing else.

Names are as in the URLs of the management API. Nothing with messages or consumers in it is ever removed: it is named
at each look, until somebody has decided.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from deploy.model.catalog import DEAD_LETTERS, SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Only, Parameter, Phase, Query, Resource
from deploy.model.secrets import account
from deploy.roles.rabbitmq_ask import ask
from deploy.roles.rabbitmq_members import UNIT

ADMIN = "fleet"
"""The deployment's own user: administrator, from the host itself only."""

MONITORING = "monitoring"
"""Of health checks and figures: may look, and nothing else."""

OPERATOR = "operator"
"""Of `fleet queue`: takes messages from any queue and puts them back where they came from."""

API = "/usr/local/lib/fleet/rabbitmq-api"
CURL_FILE = "/etc/fleet/rabbitmq.curl"
DEFINITIONS = "/etc/rabbitmq/definitions.json"
POLICY = "work-queues"
NOTHING = "^$"


@dataclass(frozen=True)
class User:
    """permissions: (configure, write, read), as patterns of names. secret: by which its password is kept."""

    password: str = field(repr=False)
    tags: str
    permissions: tuple[str, str, str]
    secret: str


def users(ctx: Context) -> dict[str, User]:
    """By their names. A user has one password: while another takes its place, there are two users."""
    found = {}
    for name, (secret, tags, permissions) in _kinds(ctx).items():
        if name == ADMIN:
            # Nobody comes with it but the deployment, from the host itself, after its file was written.
            found[name] = User(ctx.secret(secret), tags, permissions, secret)
            continue
        for one in ctx.accepts(secret):
            found[account(name, one.turn)] = User(one.value, tags, permissions, secret)
    return found


def _kinds(ctx: Context) -> dict[str, tuple[str, str, tuple[str, str, str]]]:
    """Name -> secret, tags, permissions."""
    exchanges, queues = ctx.fleet.profile.exchanges, ctx.fleet.profile.queues
    # Who declares anew what is there has to be allowed to make it.
    redeclared = [name for queue in queues if queue.redeclared for name in (queue.exchange, queue.name)]
    binds = [queue.name for queue in queues if queue.redeclared]
    return {
        ADMIN: ("rabbitmq/admin", "administrator", (".*", ".*", ".*")),
        # The dead letters: a worker puts there what it rejects, with the reason; only people take it from there.
        ctx.settings.rabbitmq.user: (
            "rabbitmq/app",
            "",
            (
                _any(dict.fromkeys(redeclared)) if redeclared else NOTHING,
                _any((*exchanges, DEAD_LETTERS, *binds)),
                # To bind a queue is to read from its exchange.
                _any((*(queue.name for queue in queues), *(exchanges if binds else ()))),
            ),
        ),
        OPERATOR: (
            "rabbitmq/operator",
            "",
            (NOTHING, _any(exchanges), _any(name for queue in queues for name in (queue.name, dead(queue.name)))),
        ),
        # Sees the figures of queues only in a virtual host that it may use, if only for nothing.
        MONITORING: ("rabbitmq/monitoring", "monitoring", (NOTHING, NOTHING, NOTHING)),
    }


def _any(names: Iterable[str]) -> str:
    return f"^({'|'.join(names)})$"


def dead(queue: str) -> str:
    """Where the messages of a queue go that nobody could handle."""
    return f"{queue}.dead"


def password_hash(user: str, password: str) -> str:
    """As RabbitMQ keeps a password: base64 of salt and SHA-256 of salt and password.

    The salt is made from both, so that the same password has one hash and a changed one is seen. A random password of
    32 characters needs no secret salt.
    """
    salt = hashlib.sha256(f"salt of {user}: {password}".encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def policy(ctx: Context) -> dict[str, Any]:
    """For the work queues. A message is given up only when the dead letters have it (at-least-once)."""
    return {
        "pattern": _any(queue.name for queue in ctx.fleet.profile.queues),
        "apply-to": "queues",
        "priority": 0,
        "definition": {
            "dead-letter-exchange": DEAD_LETTERS,
            "dead-letter-strategy": "at-least-once",
            "delivery-limit": ctx.settings.rabbitmq.delivery_limit,
            "overflow": "reject-publish",
        },
    }


def first_definitions(ctx: Context) -> dict[str, Any]:
    """What the broker loads when it starts: the virtual host and the user that declares the rest."""
    admin = users(ctx)[ADMIN]
    vhost = ctx.settings.rabbitmq.vhost
    configure, write, read = admin.permissions
    return {
        "vhosts": [{"name": vhost, "metadata": {"description": "", "tags": [], "default_queue_type": "quorum"}}],
        "users": [
            {
                "name": ADMIN,
                "password_hash": password_hash(ADMIN, admin.password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [admin.tags],
            }
        ],
        "permissions": [{"user": ADMIN, "vhost": vhost, "configure": configure, "write": write, "read": read}],
    }


def binary(text: str) -> str:
    """An Erlang binary of any text."""
    return f"<<{','.join(str(byte) for byte in text.encode())}>>"


def desired(ctx: Context) -> Iterator[Resource]:
    port = SERVICES["rabbitmq"].port("distribution").number
    vhost = ctx.settings.rabbitmq.vhost
    own = [name for queue in ctx.fleet.profile.queues for name in (queue.name, dead(queue.name))]
    query = Query(
        "rabbitmq",
        ask(
            port,
            ctx.render(
                "rabbitmq/topology.erl.j2", vhost=binary(vhost), own=[binary(name) for name in own],
                binding=ctx.render("rabbitmq/binding.erl.j2"),
            ),
        ),
        UNIT,
    )  # fmt: skip
    wanted = [*_access(ctx, query, port), *_declared(ctx, query)]
    yield from wanted
    yield from _nothing_else(ctx, query, port, frozenset(item.name for item in wanted))


def _put(path: str, body: Mapping[str, Any], method: str = "PUT") -> str:
    return f"{API} {method} {path} <<'JSON'\n{json.dumps(body, sort_keys=True)}\nJSON"


def _access(ctx: Context, query: Query, port: int) -> Iterator[Parameter]:
    """The virtual host, users, passwords, permissions."""
    vhost = ctx.settings.rabbitmq.vhost
    path = quote(vhost, safe="")
    load = ask(port, ctx.render("rabbitmq/load.erl.j2", definitions=DEFINITIONS, vhost=binary(vhost)))

    def parameter(name: str, want: str, act: str, secret: bool = False) -> Parameter:
        return Parameter(query=query, name=name, want=want, act=act, secret=secret)

    yield parameter(f"vhost {path}", "default queue type quorum", load)
    for name, user in users(ctx).items():
        digest = password_hash(name, user.password)
        body = {"password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": user.tags}
        act = load if name == ADMIN else _put(f"users/{name}", body)
        yield parameter(f"user {name}", f"tags {user.tags or 'none'}", act)
        yield parameter(f"password {name}", f"rabbit_password_hashing_sha256 {digest}", act, secret=True)
        configure, write, read = user.permissions
        yield parameter(
            f"permission {path}/{name}",
            f"configure {configure}  write {write}  read {read}",
            load
            if name == ADMIN
            else _put(f"permissions/{path}/{name}", {"configure": configure, "write": write, "read": read}),
        )
    yield parameter("cluster-name", ctx.fleet.name, _put("cluster-name", {"name": ctx.fleet.name}))


def _declared(ctx: Context, query: Query) -> Iterator[Parameter]:
    """Exchanges, policy, queues, bindings, in the order in which they need one another."""
    path = quote(ctx.settings.rabbitmq.vhost, safe="")
    members = len(ctx.fleet.members("rabbitmq"))
    for name in (*ctx.fleet.profile.exchanges, DEAD_LETTERS):
        yield Parameter(
            query=query, name=f"exchange {name}", want="direct, durable",
            act=_fixed("exchange", name, path, {"type": "direct", "durable": True}),
        )  # fmt: skip
    yield Parameter(
        query=query, name=f"policy {POLICY}", want=json.dumps(policy(ctx), sort_keys=True, separators=(",", ":")),
        act=_put(f"policies/{path}/{POLICY}", policy(ctx)),
    )  # fmt: skip
    queues = ctx.fleet.profile.queues
    pairs = [(DEAD_LETTERS, dead(queue.name), queue.routing_key) for queue in queues]
    pairs += [(queue.exchange, queue.name, queue.routing_key) for queue in queues]
    plain = {queue.name for queue in queues if queue.redeclared}
    for _, name, _ in pairs:
        # One that its consumer declares anew must have what that asks for: the virtual host's default type, no more.
        arguments = {} if name in plain else {"x-queue-type": "quorum", "x-quorum-initial-group-size": members}
        yield Parameter(
            query=query, name=f"queue {name}", want="quorum, durable",
            act=_fixed("queue", name, path, {"durable": True, "arguments": arguments}),
        )  # fmt: skip
    for exchange, name, key in pairs:
        yield Parameter(
            query=query, name=f"binding {exchange}/q/{name}/{key}", want="bound",
            act=_put(f"bindings/{path}/e/{exchange}/q/{name}", {"routing_key": key}, "POST"),
        )  # fmt: skip


def _fixed(kind: str, name: str, path: str, body: Mapping[str, Any]) -> str:
    """Declare what cannot be changed afterwards: its kind and arguments."""
    url = f"{kind}s/{path}/{name}"
    return (
        f"if ! {_put(url, body)}\nthen\n"
        f"  echo 'no existing {kind} can be made into this one: let nothing use it, save what it holds,'\n"
        f"  echo 'delete it on this host with `{API} DELETE {url}`, and run apply again'\n  exit 1\nfi"
    )


def _nothing_else(ctx: Context, query: Query, port: int, names: frozenset[str]) -> Iterator[Resource]:
    """What nobody asked for, dependants first. It goes; what is in use stays, and is named."""
    vhost = ctx.settings.rabbitmq.vhost
    path = quote(vhost, safe="")
    safe = 'case $NAME in *[!A-Za-z0-9._~%/-]*) echo "not a name: $NAME"; exit 1 ;; esac'
    unbind = ctx.render("rabbitmq/unbind.erl.j2", vhost=binary(vhost), binding=ctx.render("rabbitmq/binding.erl.j2"))
    used = ctx.render("rabbitmq/used.erl.j2", vhost=binary(vhost))

    def evaluate(erlang: str) -> str:
        # Not quoted: the shell puts the name in, which cannot end the text it is put into.
        return ask(port, erlang).replace(_QUOTED, _OPEN)

    def unless(erlang: str, act: str) -> str:
        # Asked again at the last moment: what has come into use since the look stays, and the next look names it.
        return f'in_use=$({evaluate(erlang)}\n) || {{ echo "$in_use"; exit 1; }}\n[ "$in_use" != no ] || {act}'

    deleted = {
        "permission": f"{API} DELETE permissions/$NAME",
        "topic-permission": f"{API} DELETE topic-permissions/$NAME",
        "limit": f"{API} DELETE $NAME",
        "user": f"{API} DELETE users/$NAME",
        "operator-policy": f"{API} DELETE operator-policies/$NAME",
        "parameter": f"{API} DELETE parameters/$NAME",
        "global-parameter": f"{API} DELETE global-parameters/$NAME",
        "policy": f"{API} DELETE policies/{path}/$NAME",
        "binding": evaluate(unbind),
        "exchange": f"{API} DELETE exchanges/{path}/$NAME",
        "stray-queue": unless(used, f"{API} DELETE queues/{path}/$NAME"),
        "stray-vhost": unless(ctx.render("rabbitmq/populated.erl.j2"), f"{API} DELETE vhosts/$NAME"),
    }
    for kind, act in deleted.items():
        mine = frozenset(name for name in names if name.startswith(f"{kind} "))
        yield Only(query=query, prefix=f"{kind} ", names=mine, act=f"{safe}\n{act}")
    yield Parameter(
        query=query, name="kept", want="nothing", phase=Phase.MEMBERS, label="rabbitmq: strays in use, not removed"
    )


_QUOTED, _OPEN = "ask <<'ERLANG'", "ask <<ERLANG"
