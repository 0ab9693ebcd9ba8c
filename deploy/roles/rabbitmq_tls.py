"""The broker's TLS: AMQP and the management API for clients, the connections among members, and the tools that join.

All of it is mutual. A certificate proves that its holder belongs to the fleet, no more: Erlang's TLS asks for no role.
Who may do what is for the firewall (which hosts), users and their permissions, and the members' cookie. Revocation
lists are read from the disk at each handshake; certificates and the CA's file are kept in memory for two minutes, or
until the broker is told that they are others.
"""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Parameter, Phase, Query, Resource, StepClass
from deploy.roles.common import CA_FILE, CRL_FILE, certificate
from deploy.roles.rabbitmq_ask import TLS_WORD, ask
from deploy.roles.rabbitmq_members import CLUSTER

ADVANCED = "/etc/rabbitmq/advanced.config"
"""What rabbitmq.conf has no words for (where lists are). It takes the place of all options of the same name there."""
LINKS = "/etc/rabbitmq/inter_node_tls.config"
LISTS = f"{SSL_DIR}/lists"
"""The CA's lists as Erlang looks for them: one a file, named after its authority (OpenSSL's hash of the name)."""

# With forward secrecy, and without block ciphers that are signed before they are encrypted.
SUITES = (
    "TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256",
    *(f"ECDHE-{kind}-{cipher}" for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256", "CHACHA20-POLY1305")
      for kind in ("ECDSA", "RSA")),
)  # fmt: skip


def options(ctx: Context, *, server: bool) -> tuple[str, ...]:
    """Of a listener or of who dials, as Erlang prints them."""
    pair = certificate(ctx, "rabbitmq")
    suites = ",".join(f'"{suite}"' for suite in SUITES)
    both = (
        f'{{cacertfile,"{CA_FILE}"}}', f'{{certfile,"{pair.certificate_path}"}}', f'{{keyfile,"{pair.key_path}"}}',
        "{verify,verify_peer}", "{versions,['tlsv1.3','tlsv1.2']}", f"{{ciphers,[{suites}]}}", "{crl_check,peer}",
        f'{{crl_cache,{{ssl_crl_hash_dir,{{internal,[{{dir,"{LISTS}"}}]}}}}}}',
    )  # fmt: skip
    # A resumed session would not be asked for its certificate again, which may have been revoked.
    asked = ("{fail_if_no_peer_cert,true}", "{reuse_sessions,false}", "{client_renegotiation,false}")
    return (*both, *asked) if server else both


def listens(ctx: Context) -> tuple[str, str]:
    """(AMQP's options, the management API's) as Erlang terms; empty lists where clients come in the clear."""
    if not ctx.settings.rabbitmq.tls:
        return "[]", "[]"
    port = SERVICES["rabbitmq"].port("management-tls").number
    asked = options(ctx, server=True)
    where = (f'{{ip,"{ctx.host.address}"}}', f"{{port,{port}}}")
    return f"[{','.join(asked)}]", f"[{','.join((*where, *asked))}]"


def linked(ctx: Context) -> bool:
    """Whether members talk to one another by TLS: as those that run do, since they would not understand another way.

    The setting counts when none runs: on the first boot, or after all were stopped.
    """
    seen = ctx.live.links.get(CLUSTER, "")
    return seen == "tls" if seen else ctx.settings.rabbitmq.inter_node_tls


def arguments(ctx: Context) -> str:
    """What the broker's Erlang and that of its tools are started with."""
    return f"-proto_dist {TLS_WORD} -ssl_dist_optfile {LINKS}" if linked(ctx) else ""


def desired(ctx: Context) -> Iterator[Resource]:
    yield certificate(ctx, "rabbitmq")
    yield Directory(path=LISTS)
    # It is also brought by what changes nothing but the CA's files (`name`: see procedures/pki/renew.py).
    yield Parameter(
        query=Query("rabbitmq-lists", ctx.render("rabbitmq/lists.sh.j2", lists=LISTS, source=CRL_FILE, act=False)),
        name="files", want=f"those of {CRL_FILE}", loads=(CRL_FILE,), phase=Phase.FILES, step=StepClass.WRITE,
        label="rabbitmq: revocation lists",
        act=ctx.render("rabbitmq/lists.sh.j2", lists=LISTS, source=CRL_FILE, act=True),
    )  # fmt: skip
    parses = "erl -noinput -boot no_dot_erlang -eval '{ok, [_]} = file:consult(os:getenv(\"CANDIDATE\")), halt(0).'"
    sides = {"server": options(ctx, server=True), "client": options(ctx, server=False)}
    yield File(
        path=LINKS, content=ctx.render("rabbitmq/inter_node_tls.config.j2", sides=sides),
        check=f"ERL_CRASH_DUMP_SECONDS=0 timeout 60 {parses}",
    )  # fmt: skip
    amqp, management = listens(ctx)
    yield File(
        path=ADVANCED, content=ctx.render("rabbitmq/advanced.config.j2", amqp=amqp, management=management),
        check=f"ERL_CRASH_DUMP_SECONDS=0 timeout 60 {parses}",
    )  # fmt: skip


READ = "read anew"
"""What `reading` prints when nothing on the disk is newer than what the broker has in its memory."""


def _loaded(ctx: Context) -> tuple[str, ...]:
    pair = certificate(ctx, "rabbitmq")
    return pair.certificate_path, pair.key_path, CA_FILE


def reading(ctx: Context) -> str:
    """Erlang: whether the broker serves with the files as they are. By itself it does after two minutes, so that a
    controller which died before it said so leaves nothing behind.
    """
    paths = ", ".join(f'"{path}"' for path in _loaded(ctx))
    return f"""begin
      Written = fun(Path) -> case file:read_file_info(Path, [{{ time, posix }}]) of
        {{ ok, Info }} -> element(6, Info); _ -> 0 end end,
      Now = os:system_time(second),
      % One of tomorrow, since a clock was ahead, is read at every turn by the broker itself.
      Newest = lists:max([0 | [At || Path <- [{paths}], (At = Written(Path)) =< Now]]),
      Began = Now - element(1, erlang:statistics(wall_clock)) div 1000,
      Read = lists:max([Began, Now - 180, persistent_term:get(fleet_read, 0)]),
      case Newest =< Read of true -> "{READ}"; false -> "older" end
    end"""


FORGET = """\
case whereis(ssl_pem_cache) of undefined -> ok; _ -> ok = ssl:clear_pem_cache() end,
case whereis(ssl_pem_cache_dist) of
  undefined -> ok;
  Cache -> ok = gen_server:call(Cache, { unconditionally_clear_pem_cache, self() })
end,
ok = persistent_term:put(fleet_read, os:system_time(second)),
fleet.
"""
"""What a broker has in its memory of files. The connections of members have one of their own, unknown to the first."""


def renewed(ctx: Context, query: Query) -> Parameter:
    """New files are served at once; before anything else is asked of a broker, since one whose certificate had ended
    lets nobody in until it has read the new one by itself.
    """
    tell = ask(SERVICES["rabbitmq"].port("distribution").number, FORGET)
    return Parameter(
        query=query, name="files", want=READ, at_start=True, loads=_loaded(ctx), step=StepClass.RELOAD,
        phase=Phase.UNITS, label="rabbitmq: certificates",
        act=f"""\
tell() {{
{tell}
}}
n=0
until said=$(tell); do
  n=$((n + 1))
  [ $n -lt 40 ] || {{ printf '%s\\n' "$said" | tail -n 3; exit 1; }}
  sleep 5
done""",
    )  # fmt: skip
