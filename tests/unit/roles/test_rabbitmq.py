"""RabbitMQ and the workers: least privilege, exact comparison, no secret where others can read, shell that parses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.converge.compare import steps
from deploy.converge.desired import host_state, render, secret_specs, tree
from deploy.converge.look import parse, script
from deploy.model.catalog import EXCHANGES, QUEUES, SERVICES, WORKERS
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.observed import Answer, HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import File, Only, Package, Parameter, Phase, Resource, StepClass, Unit
from deploy.roles import rabbitmq, rabbitmq_ask, rabbitmq_members, rabbitmq_topology, worker

UNIT = rabbitmq_members.UNIT
RUNNING = UnitState("loaded", "active", "running", "enabled", False, 1, 1, {})


def context(host: str = "data1", members: int = 1, **data: Any) -> Context:
    groups = {f"data{i}": frozenset({"rabbitmq"}) for i in range(1, members + 1)} | {"app1": frozenset({"worker"})}
    hosts = {
        name: HostInput(own, {"ssh_hostname": f"10.0.0.{number}", **data})
        for number, (name, own) in enumerate(groups.items(), 1)
    }
    fleet = build("test", hosts)
    return Context(
        fleet=fleet, host=fleet.host(host), live=Live({"rabbitmq": "data1"}), authority="CA", render=render, files=tree,
        secret=lambda name: f"S{hashlib.sha256(name.encode()).hexdigest()[:31]}",
    )  # fmt: skip


def wanted(ctx: Context) -> list[Resource]:
    return list((worker if ctx.host.name == "app1" else rabbitmq).desired(ctx))


def files(ctx: Context) -> dict[str, File]:
    return {item.path: item for item in wanted(ctx) if isinstance(item, File)}


def parameters(ctx: Context) -> dict[str, Parameter]:
    return {item.key: item for item in wanted(ctx) if isinstance(item, Parameter)}


def as_declared(ctx: Context) -> dict[str, dict[str, str]]:
    """Query -> the answer of a broker that is what it should be."""
    answers: dict[str, dict[str, str]] = {}
    for item in parameters(ctx).values():
        assert item.want is not None
        answers.setdefault(item.query.id, {})[item.name] = item.want
    return answers


def found(ctx: Context, answers: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str, StepClass, bool]]:
    """(key, summary, class, pending) of the steps that these answers cause."""
    state = host_state(ctx)
    only = replace(
        state,
        resources=tuple(
            item for item in state.resources if isinstance(item, Parameter | Only) and item.role == "rabbitmq"
        ),
    )
    seen = Snapshot(
        ctx.host.name, HostFactsSeen("debian", "12", 1, 1), units={UNIT: RUNNING},
        answers={name: Answer(dict(values)) for name, values in answers.items()},
    )  # fmt: skip
    return [(step.key, step.summary, step.step, step.pending) for step in steps(only, seen, "CA")]


def test_the_file_says_what_the_specification_says() -> None:
    lines = files(context())["/etc/rabbitmq/rabbitmq.conf"].content.splitlines()
    for line in (
        "vm_memory_high_watermark.relative = 0.6", "disk_free_limit.absolute = 2GB", "channel_max = 2000",
        "listeners.tcp.1 = 127.0.0.1:5672", "listeners.ssl.1 = 10.0.0.1:5671", "management.tcp.ip = 127.0.0.1",
        "management.tcp.port = 15672",
    ):  # fmt: skip
        assert line in lines


def test_each_line_of_the_file_is_also_asked_of_what_runs_or_matters_only_to_an_empty_member() -> None:
    unread = [line.name for line in rabbitmq.lines(context()) if not line.read]
    assert [name for name in unread if not name.startswith("cluster_formation.")] == [
        "listeners.ssl.1", "loopback_users.fleet",
    ]  # fmt: skip


def test_the_broker_is_configured_before_its_first_start_and_never_makes_its_default_user() -> None:
    ctx = context()
    everything = wanted(ctx)
    unit = next(item for item in everything if isinstance(item, Unit) and item.name == UNIT)
    for path in (
        rabbitmq.CONF,
        rabbitmq_ask.ENV,
        rabbitmq_members.COOKIE,
        rabbitmq_topology.DEFINITIONS,
        "/etc/rabbitmq/enabled_plugins",
    ):
        assert files(ctx)[path].order < unit.order
    assert f"load_definitions = {rabbitmq_topology.DEFINITIONS}" in files(ctx)[rabbitmq.CONF].content
    loaded = json.loads(files(ctx)[rabbitmq_topology.DEFINITIONS].content)
    assert [user["name"] for user in loaded["users"]] == ["fleet"]
    assert not {"password", "default_pass"} & set(loaded["users"][0])
    paths = [item.path for item in everything if isinstance(item, File)]
    assert paths.index(rabbitmq_topology.DEFINITIONS) < paths.index(rabbitmq.CONF), "the checker wants to see it"


def test_a_crash_leaves_no_memory_behind_and_what_an_earlier_one_left_goes() -> None:
    found = files(context())
    assert "export ERL_CRASH_DUMP_SECONDS=0" in found[rabbitmq_ask.ENV].content.splitlines()
    assert found[rabbitmq.DUMP].absent


def test_the_unit_is_owed_a_restart_only_by_what_a_restart_alone_can_bring() -> None:
    unit = next(item for item in wanted(context()) if isinstance(item, Unit) and item.name == UNIT)
    assert unit.rolling
    assert rabbitmq.CONF not in unit.restart_files, "its values are compared one by one"
    classes = {item.name: item.step for item in parameters(context()).values() if item.query.id == "rabbitmq-node"}
    assert {name for name, step in classes.items() if step is StepClass.HOT} == {
        "plugins", "vm_memory_high_watermark.relative", "disk_free_limit.absolute", "net_ticktime",
    }  # fmt: skip


def test_members_that_refuse_one_another_are_started_again() -> None:
    unit = next(item for item in wanted(context()) if isinstance(item, Unit) and item.name == UNIT)
    assert unit.tries > 1


def test_a_password_hash_is_one_that_rabbitmq_accepts() -> None:
    raw = base64.b64decode(rabbitmq_topology.password_hash("omegaup", "geheim"))
    salt, digest = raw[:4], raw[4:]
    assert digest == hashlib.sha256(salt + b"geheim").digest()
    assert rabbitmq_topology.password_hash("omegaup", "geheim") != rabbitmq_topology.password_hash("fleet", "geheim")


@pytest.mark.parametrize("name", [*EXCHANGES, *(queue.name for queue in QUEUES)])
def test_the_application_configures_nothing_writes_to_exchanges_and_reads_queues(name: str) -> None:
    configure, write, read = rabbitmq_topology.users(context())["omegaup"].permissions
    assert not re.search(configure, name)
    assert bool(re.search(write, name)) == (name in EXCHANGES)
    assert bool(re.search(read, name)) == (name not in EXCHANGES)
    assert not re.search(read, rabbitmq_topology.dead(name))
    assert not re.search(write, "amq.default")
    # A worker puts there what it rejects, with the reason. Only people take it from there.
    assert re.search(write, "dead-letters")


@pytest.mark.parametrize("queue", [queue.name for queue in QUEUES])
def test_people_take_messages_from_every_queue_and_put_them_back(queue: str) -> None:
    configure, write, read = rabbitmq_topology.users(context())["operator"].permissions
    assert re.search(read, queue)
    assert re.search(read, rabbitmq_topology.dead(queue))
    assert all(re.search(write, exchange) for exchange in EXCHANGES)
    assert not re.search(write, "dead-letters")
    assert not re.search(configure, queue)


def test_the_policy_is_for_the_work_queues_and_not_for_the_dead_letters() -> None:
    policy = rabbitmq_topology.policy(context(rabbitmq={"delivery_limit": 9}))
    assert policy["definition"]["delivery-limit"] == 9
    for queue in QUEUES:
        assert re.search(policy["pattern"], queue.name)
        assert not re.search(policy["pattern"], rabbitmq_topology.dead(queue.name))


def test_nothing_differs_in_a_broker_that_is_as_declared() -> None:
    ctx = context()
    assert found(ctx, as_declared(ctx)) == []


@pytest.mark.parametrize(
    ("query", "name", "value", "summary", "kind", "pending"),
    [
        ("rabbitmq-node", "vm_memory_high_watermark.relative", "0.2", "0.2 -> 0.6", StepClass.HOT, False),
        ("rabbitmq-node", "heartbeat", "7", "7 -> 60", StepClass.RESTART, True),
        ("rabbitmq", "user omegaup", "tags administrator", "tags administrator -> tags none", StepClass.HOT, False),
        ("rabbitmq", "password omegaup", "other", "******** -> ********", StepClass.HOT, False),
        ("rabbitmq", "queue ContestQueue", None, "absent -> quorum, durable", StepClass.CREATE, False),
        ("rabbitmq", "user guest", "tags administrator", "remove: nobody asked for it", StepClass.WRITE, False),
        ("rabbitmq", "permission %2F/guest", "x", "remove: nobody asked for it", StepClass.WRITE, False),
        ("rabbitmq", "binding a/q/b/c", "bound", "remove: nobody asked for it", StepClass.WRITE, False),
        ("rabbitmq", "stray-queue x", "classic", "remove: nobody asked for it", StepClass.WRITE, False),
        ("rabbitmq", "limit user-limits/x/max-channels", "1", "remove: nobody asked for it", StepClass.WRITE, False),
    ],
)  # fmt: skip
def test_a_change_by_hand_is_named(
    query: str, name: str, value: str | None, summary: str, kind: StepClass, pending: bool
) -> None:
    ctx = context()
    answers = as_declared(ctx)
    if value is None:
        del answers[query][name]
    else:
        answers[query][name] = value
    assert found(ctx, answers) == [(f"{query}:{name}", summary, kind, pending)]


def test_a_stray_queue_in_use_is_named_and_left() -> None:
    ctx = context()
    kept = parameters(ctx)["rabbitmq: strays in use, not removed"]
    assert (kept.act, kept.phase) == ("", Phase.MEMBERS)
    answers = as_declared(ctx)
    answers["rabbitmq"]["kept"] = "queue x with 3 messages, 0 consumers"
    [(key, summary, _, pending)] = found(ctx, answers)
    assert (key, summary, pending) == (kept.key, "queue x with 3 messages, 0 consumers -> nothing", False)


def test_three_members_know_one_another_and_the_first_declares() -> None:
    ctx = context("data2", members=3)
    conf = files(ctx)[rabbitmq.CONF].content
    for number in (1, 2, 3):
        assert f"cluster_formation.classic_config.nodes.{number} = rabbit@data{number}\n" in conf
    assert "cluster_formation.target_cluster_size_hint = 3\n" in conf
    assert [key for key in parameters(ctx) if key.startswith("rabbitmq:")] == [
        "rabbitmq: revocation lists", "rabbitmq: certificates", "rabbitmq: copies",
    ]  # fmt: skip
    queue = parameters(context("data1", members=3))["rabbitmq:queue ContestQueue"]
    assert '"x-quorum-initial-group-size": 3' in queue.act


@pytest.mark.parametrize(
    ("refusal", "code"),
    [("Error:\\nrebalance_in_progress", 75), ("/\\tContestQueue\\t2\\terror: cluster_change_not_permitted", 0)],
)
def test_a_members_copies_wait_for_what_refuses_them_for_a_while(refusal: str, code: int, tmp_path: Path) -> None:
    """Members that join at once ask for the same at once; the broker lets one of them."""
    tools = f"""\
sleep() {{ :; }}
rabbitmq-queues() {{
  echo "$2" >>asked
  [ "$(grep -c "$2" asked)" -gt 2 ] || {{ printf '{refusal}\n'; return {code}; }}
  printf '/\\tErrorQueue\\t3\\tok\n'
}}
"""
    act = parameters(context("data2", members=3))["rabbitmq: copies"].act
    done = subprocess.run(
        ["bash", "-eu"], input=tools + act, text=True, capture_output=True, check=False, cwd=tmp_path, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "asked").read_text().split() == ["grow"] * 3 + ["rebalance"] * 3


def test_copies_that_are_refused_to_the_end_say_why(tmp_path: Path) -> None:
    tools = "rabbitmq-queues() { printf 'Error:\\n\\nit elects\\n' >&2; return 75; }\n"
    act = rabbitmq_members.insisted("rabbitmq-queues -q grow x all", seconds=0)
    done = subprocess.run(["bash", "-eu"], input=tools + act, text=True, capture_output=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "Error:\nit elects\n")


def test_secrets_are_marked_and_readable_by_nobody_else() -> None:
    for host in ("data1", "app1"):
        ctx = context(host)
        secrets = [ctx.secret(name) for name in secret_specs()]
        for item in wanted(ctx):
            if isinstance(item, File) and any(secret in item.content for secret in secrets):
                assert item.secret
                assert item.mode & 0o037 == 0, item.path
            if isinstance(item, Parameter):
                assert not any(secret in item.act + item.query.script for secret in secrets), item.key
                assert item.secret or not any(secret in str(item.want) for secret in secrets)


def test_no_hash_is_an_argument() -> None:
    ctx = context()
    item = parameters(ctx)["rabbitmq:password omegaup"]
    digest = rabbitmq_topology.password_hash("omegaup", ctx.secret("rabbitmq/app"))
    command, _, document = item.act.partition("<<'JSON'\n")
    assert digest in document
    assert digest not in command


@pytest.mark.parametrize("name", ["a b", 'x"y', "$(reboot)", "`reboot`", "x;reboot"])
def test_a_name_that_is_not_as_in_a_url_is_not_put_into_erlang(name: str, tmp_path: Any) -> None:
    for item in wanted(context()):
        if isinstance(item, Only) and "ERLANG" in item.act:
            tools = "erl_call() { touch %s; }\ntimeout() { touch %s; }\n" % ((tmp_path / "called",) * 2)
            done = subprocess.run(
                ["sh", "-eu"], input=f"{tools}NAME='{name}'\n{item.act}", text=True, capture_output=True, check=False
            )
            assert done.returncode == 1
            assert done.stdout.startswith("not a name")
            assert not (tmp_path / "called").exists()


def test_the_shell_parses() -> None:
    for host in ("data1", "app1"):
        ctx = context(host)
        scripts = [script(wanted(ctx), "n")]
        for item in wanted(ctx):
            if isinstance(item, Parameter | Only):
                scripts.append(item.act)
            if isinstance(item, File):
                scripts.append(item.check)
                scripts += [item.content] if item.content.startswith("#!/bin/sh") else []
        for text in scripts:
            for shell in filter(None, (shutil.which("dash"), shutil.which("sh"))):
                done = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, check=False)
                assert done.returncode == 0, f"{done.stderr}\n{text}"


ANSWERS = [
    ("application\trunning\n{ok, fleet}", 0, "application\trunning\n"),
    ("RabbitMQ is stopped\n{ok, stopped}", 1, "RabbitMQ is stopped\n"),
    ('{error, "*** eval: badarg"}', 1, '{error, "*** eval: badarg"}\n'),
    ("", 1, "\n"),
]  # fmt: skip


@pytest.mark.parametrize(("says", "code", "shown"), ANSWERS)
def test_only_an_answer_to_the_end_is_an_answer(says: str, code: int, shown: str) -> None:
    text = f"timeout() {{ printf '%s' '{says}'; }}\n{rabbitmq_ask.ask(25672, 'fleet.' + chr(10))}"
    done = subprocess.run(["sh", "-eu"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, shown)


def test_an_answer_that_imitates_another_line_is_read_as_one_value() -> None:
    ctx = context()
    item = parameters(ctx)["rabbitmq:permission %2F/omegaup"]
    output = ["@@n facts", "uid\t0", "@@n query rabbitmq", f"{item.name}\tconfigure .*?user x", "@@n rc 0", "@@n end"]
    assert parse("data1", output, "n", [item]).answers["rabbitmq"].values == {item.name: "configure .*?user x"}


def test_workers_are_the_catalogs_and_only_one_knows_the_mail_relay() -> None:
    ctx = context("app1")
    units = [item.name for item in wanted(ctx) if isinstance(item, Unit)]
    assert tuple(units) == SERVICES["worker"].units
    for name, queue in WORKERS.items():
        config = json.loads(files(ctx)[f"/etc/omegaup/worker/{name}.json"].content)
        assert config["queue"] == queue
        assert ("mail" in config) == (name == "notifications")
        assert config["rabbitmq"]["user"] == "omegaup"
        # What it prefetches is counted against when it dies: not where messages take long.
        assert config["prefetch"] == (10 if name == "analytics" else 1)
    # Five starts in ten seconds, systemd's default, would be fewer than a message has that kills its worker.
    assert "[Unit]" in (unit := files(ctx)[worker.TEMPLATE].content)
    assert "\nStartLimitIntervalSec=0\n" in unit.partition("[Service]")[0]
    tool = files(ctx)["/etc/fleet/queues.json"]
    assert (tool.owner, tool.group, tool.mode, tool.secret) == ("root", "root", 0o600, True)
    assert json.loads(tool.content)["rabbitmq"]["user"] == "operator"
    assert not [item for item in wanted(ctx) if isinstance(item, Package) and "rabbitmq" in item.name]
