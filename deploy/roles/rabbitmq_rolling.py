"""How a member of the broker's cluster is rolled: its queues' leaders and clients move away before it stops."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.model.fleet import Context
from deploy.model.ways import Act, Gate, View, Way
from deploy.roles import gates
from deploy.roles.draining import drain, undrain
from deploy.roles.rabbitmq_members import CLUSTER, REBALANCE, UNIT, standings

MEMBERS_FOR_QUORUM = 3
"""With fewer, the loss of one leaves no majority."""

FLAGS = """\
off=$(rabbitmqctl -q list_feature_flags name state stability </dev/null |
  awk '$2 != "enabled" && $3 == "stable" { printf "%s ", $1 }')
[ -z "$off" ] || {
  echo "feature flags that are not enabled, which a later version may need: $off: rabbitmqctl enable_feature_flag all"
  exit 1
}"""
"""A later series does not start where a flag of an earlier one is not enabled (rabbitmq.com/docs/feature-flags)."""


def way(ctx: Context) -> Way:
    here, alone = ctx.host.name, len(ctx.fleet.members("rabbitmq")) == 1
    # The broker's own drain goes last: it cuts whoever is still connected.
    empty = Act(
        here,
        f"""\
systemctl is-active --quiet {UNIT} && rabbitmqctl -q --timeout 10 check_running </dev/null >/dev/null 2>&1 || exit 0
rabbitmq-upgrade -q --timeout 60 await_online_quorum_plus_one </dev/null
rabbitmq-upgrade -q --timeout 60 drain </dev/null >/dev/null""",
        150,
    )
    # Nothing to do for one that was restarted; one that was only drained would serve nobody.
    revive = Act(here, "rabbitmq-upgrade -q --timeout 60 revive </dev/null >/dev/null", 90)
    restart = f"""\
systemctl daemon-reload
systemctl stop {UNIT} 9>&-
# A start that finds the old name in epmd dies of it.
n=0
while epmd -names 2>/dev/null 9>&- | grep -q '^name rabbit '; do
  n=$((n + 1))
  [ $n -lt 60 ] || {{ echo 'epmd still has the name of the stopped member'; exit 1; }}
  sleep 0.5
done
systemctl reset-failed {UNIT} 2>/dev/null || true
systemctl start {UNIT} 9>&- || true
started {UNIT}
rabbitmqctl -q --timeout 90 await_startup </dev/null"""
    return Way(
        name="rabbitmq", service="rabbitmq", units=(UNIT,), source=UNIT.removesuffix(".service"),
        may_install=FLAGS, installed="rabbitmqctl -q enable_feature_flag all </dev/null",
        gates=(
            gates.running("rabbitmq", (UNIT,)),
            gates.standing("cluster", (CLUSTER,), standings),
            Gate("quorum", _no_quorum, after=False),
            gates.healthy(), gates.quick(), gates.silent(),
        ),
        drain=() if alone else (drain(ctx, ("rabbitmq",), here), (empty,)),
        undrain=() if alone else (*undrain(ctx, ("rabbitmq",), here), revive),
        restart={UNIT: restart},
        finish="" if alone else REBALANCE,
    )  # fmt: skip


def _no_quorum(view: View) -> Iterator[str]:
    count = len(view.ctx.fleet.members("rabbitmq"))
    if 1 < count < MEMBERS_FOR_QUORUM:
        yield f"{count} members: without one of them no queue has a majority"
