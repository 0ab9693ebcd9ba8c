"""The broker by TLS: what is rendered, what a cluster that ran before it gets, and that the way to it is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.converge.compare import steps
from deploy.converge.desired import host_state, render, tree
from deploy.errors import FleetError
from deploy.model.catalog import SERVICES, Tls
from deploy.model.fleet import Context, Fleet, HostInput, Live, build
from deploy.model.observed import Answer, HostFactsSeen, Snapshot, UnitState
from deploy.model.resources import Certificate, File, Parameter, StepClass
from deploy.model.scrapes import jobs
from deploy.procedures.pki import verify
from deploy.roles import base, proxy, rabbitmq, rabbitmq_ask, rabbitmq_members, rabbitmq_tls
from deploy.roles.draining import drain
from tests.unit.roles.test_rabbitmq_members import ALL, up
from tests.unit.trust.made import authority

MEMBERS = ("data1", "data2", "data3")
RUNNING = UnitState("loaded", "active", "running", "enabled", False, 1, 1, {})


def fleet(**settings: Any) -> Fleet:
    groups = {name: frozenset({"rabbitmq"}) for name in MEMBERS} | {
        "web1": frozenset({"frontend"}), "mon1": frozenset({"monitoring"}),
        **{name: frozenset({name}) for name in ("redis", "mysql")},
    }  # fmt: skip
    return build(
        "test",
        {
            name: HostInput(own, {"ssh_hostname": f"10.0.0.{number}", "rabbitmq": settings})
            for number, (name, own) in enumerate(groups.items(), 1)
        },
    )


def context(host: str = "data1", live: Live | None = None, **settings: Any) -> Context:
    of = fleet(**settings)
    return Context(
        fleet=of, host=of.host(host), live=live or Live({"rabbitmq": "data1"}), authority="CA", render=render,
        files=tree, secret=lambda name: f"S{name}",
    )  # fmt: skip


def plain(*members: str, links: str = "") -> Live:
    """These members serve otherwise than their settings say."""
    return Live({"rabbitmq": "data1"}, otherwise={"rabbitmq": frozenset(members)}, links={"rabbitmq": links})


def text(ctx: Context, path: str) -> str:
    module = proxy if path == proxy.CONFIG else rabbitmq
    return next(item.content for item in module.desired(ctx) if isinstance(item, File) and item.path == path)


def servers(ctx: Context) -> list[str]:
    section = text(ctx, proxy.CONFIG).partition("listen rabbitmq\n")[2].partition("\nlisten ")[0]
    return [line.strip() for line in section.splitlines() if line.strip()]


# -- what is rendered ---------------------------------------------------------------------------------------


def test_nothing_listens_in_the_clear_but_on_the_loopback() -> None:
    lines = text(context(), rabbitmq.CONF).splitlines()
    listening = {line for line in lines if line.startswith(("listeners.", "management.", "prometheus."))}
    assert listening == {
        "listeners.tcp.1 = 127.0.0.1:5672", "listeners.ssl.1 = 10.0.0.1:5671", "management.tcp.ip = 127.0.0.1",
        "management.tcp.port = 15672", "prometheus.tcp.ip = 127.0.0.1", "prometheus.tcp.port = 15692",
    }  # fmt: skip


@pytest.mark.parametrize("path", [rabbitmq_tls.ADVANCED, rabbitmq_tls.LINKS])
def test_who_has_no_good_certificate_is_refused(path: str) -> None:
    content = text(context(), path)
    for option in ("{verify,verify_peer}", "{fail_if_no_peer_cert,true}", "{crl_check,peer}", "ssl_crl_hash_dir",
                   "{versions,['tlsv1.3','tlsv1.2']}"):  # fmt: skip
        # Both of the listeners, or both sides of a connection among members; who dials asks for nothing to be shown.
        assert content.count(option) == (1 if option.startswith("{fail") and path == rabbitmq_tls.LINKS else 2), option
    assert "CBC" not in content
    assert "/etc/omegaup/ssl/rabbitmq.key" in content


@pytest.mark.skipif(shutil.which("erl") is None, reason="no Erlang here")
@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("path", [rabbitmq_tls.ADVANCED, rabbitmq_tls.LINKS])
def test_erlang_reads_it(path: str, tls: bool, tmp_path: Path) -> None:
    item = next(i for i in rabbitmq.desired(context(tls=tls)) if isinstance(i, File) and i.path == path)
    (tmp_path / "candidate").write_text(item.content)
    shell = ["sh", "-euc", item.check]
    environment = {"CANDIDATE": str(tmp_path / "candidate"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    assert subprocess.run(shell, env=environment, check=False).returncode == 0
    (tmp_path / "candidate").write_text(item.content.replace("[", "", 1))
    assert subprocess.run(shell, env=environment, check=False, capture_output=True).returncode != 0


def test_clients_come_by_tls_with_the_proxys_certificate_and_are_asked_by_it() -> None:
    lines = servers(context("web1"))
    assert lines[0] == "bind 127.0.0.2:5672", "clients see what they saw"
    assert "http-check send meth GET uri /api/health/checks/port-listener/5671" in "\n".join(lines)
    found = [line for line in lines if line.startswith("server ")]
    assert len(found) == len(MEMBERS)
    for name, line in zip(MEMBERS, found, strict=True):
        assert line.startswith(f"server {name} 10.0.0.{MEMBERS.index(name) + 1}:5671 check port 15671 ssl check-ssl ")
        assert f"verify required verifyhost {name} " in line
        assert "crt /etc/omegaup/ssl/proxy.crt ca-file /etc/omegaup/ssl/ca.crt crl-file /etc/omegaup/ssl/ca.crl" in line
    pairs = [item for item in proxy.desired(context("web1")) if isinstance(item, Certificate)]
    assert [(pair.role_name, pair.server_auth, pair.client_auth) for pair in pairs] == [("proxy", False, True)]


def test_the_firewall_and_the_probes_know_the_tls_ports_alone() -> None:
    opened = {port for comment, port, _ in base.flows(context()) if comment.startswith("rabbitmq ")}
    assert opened == {"5671", "15671", "4369", "25672", "35672-35682"}
    asked = {target.labels["instance"] for job in jobs(fleet()) for target in job.targets if "15671" in str(target)}
    assert "https://data1:15671/api/health/checks/local-alarms" in asked


def test_turned_off_all_is_as_before() -> None:
    ctx = context(tls=False, inter_node_tls=False)
    assert "listeners.tcp.2 = 10.0.0.1:5672" in text(ctx, rabbitmq.CONF)
    assert "ssl" not in text(ctx, rabbitmq.CONF)
    assert "inet_tls" not in text(ctx, rabbitmq_ask.ENV)
    opened = {port for comment, port, _ in base.flows(ctx) if comment.startswith("rabbitmq ")}
    assert opened == {"5672", "15672", "4369", "25672", "35672-35682"}
    assert ctx.host.own("rabbitmq").port("distribution").tls is Tls.NONE
    found = [line for line in servers(context("web1", tls=False)) if line.startswith("server ")]
    assert all(":5672 check port 15672" in line and "ssl" not in line for line in found)
    asked = {target.labels["instance"] for job in jobs(ctx.fleet) for target in job.targets}
    assert "http://data1:15672/api/health/checks/local-alarms" in asked


# -- a cluster that ran before -------------------------------------------------------------------------------


def test_while_a_member_serves_in_the_clear_proxies_know_both_ways_to_each() -> None:
    lines = servers(context("web1", plain("data2")))
    # Each member has this listener, whichever way others come.
    assert "uri /api/health/checks/port-listener/5672 " in "\n".join(lines)
    found = [line for line in lines if line.startswith("server ")]
    assert [line.split()[1] for line in found] == [*MEMBERS, *(f"{name}-before" for name in MEMBERS)]
    # None of them is a spare: where all are away that are not, nobody counts as serving.
    assert not any("backup" in line for line in found)
    assert all(":5671 check port 15671 ssl check-ssl" in line for line in found[:3])
    assert all(":5672 check port 15672" in line and " ssl" not in line for line in found[3:])


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed here")
@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_haproxy_takes_it(tls: bool, changing: bool, tmp_path: Path) -> None:
    authority(tmp_path, proxy="clientAuth")
    content = text(context("web1", plain("data2") if changing else None, tls=tls), proxy.CONFIG).replace(
        "/etc/omegaup/ssl", str(tmp_path)
    )
    content = re.sub(r"^ *(user|group|chroot) .*\n", "", content.replace("/run/haproxy", str(tmp_path)), flags=re.M)
    (tmp_path / "haproxy.cfg").write_text(content)
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_its_firewall_lets_clients_in_both_ways_until_then() -> None:
    def opened(host: str) -> set[str]:
        return {port for comment, port, _ in base.flows(context(host, plain("data2"))) if "rabbitmq" in comment}

    assert opened("data2") - opened("data1") == {"5672", "15672"}
    back = {port for comment, port, _ in base.flows(context("data2", plain("data2"), tls=False)) if "rabbit" in comment}
    assert {"5671", "15671", "5672", "15672"} <= back, "the other way too"


def test_its_probe_asks_where_it_answers() -> None:
    found = jobs(fleet(), {"rabbitmq": frozenset({"data2"})})
    asked = {target.labels["instance"] for job in found for target in job.targets}
    assert "http://data2:15672/api/health/checks/local-alarms" in asked
    assert "https://data1:15671/api/health/checks/local-alarms" in asked


def test_a_member_is_drained_under_both_names() -> None:
    (act,) = drain(context("data1"), ("rabbitmq",), "data1")
    for name in ("data1", "data1-before"):
        assert f"set server rabbitmq/{name} state drain" in act.script


def test_in_the_clear_the_management_api_has_no_listener_by_tls() -> None:
    """Options that are there but empty open one on the usual port, without a certificate: the broker does not start."""
    assert "rabbitmq_management" in text(context(), rabbitmq_tls.ADVANCED)
    assert "rabbitmq_management" not in text(context(tls=False), rabbitmq_tls.ADVANCED)


@pytest.mark.parametrize(("links", "setting", "by_tls"), [
    ("", True, True), ("", False, False), ("plain", True, False), ("tls", False, True), ("tls", True, True),
])  # fmt: skip
def test_members_go_on_as_they_run_until_none_runs(links: str, setting: bool, by_tls: bool) -> None:
    ctx = context(live=plain(links=links), inter_node_tls=setting)
    content = text(ctx, rabbitmq_ask.ENV)
    assert ("-proto_dist inet_tls" in content) == by_tls
    assert content.count("inet_tls ") == (2 if by_tls else 0), "the broker and its tools"


def test_a_cluster_in_the_clear_is_owed_restarts_for_its_clients_and_nothing_for_its_members() -> None:
    """What apply on a fleet of an earlier version finds on a member."""
    ctx = context(live=plain(*MEMBERS, links="plain"))
    state = host_state(ctx)
    mine = tuple(item for item in state.resources if item.role == "rabbitmq" and isinstance(item, Parameter))
    answers: dict[str, dict[str, str]] = {}
    for item in mine:
        answers.setdefault(item.query.id, {})[item.name] = item.want or ""
    answers["rabbitmq-node"] |= {
        "listeners.tcp.1": "10.0.0.1:5672 127.0.0.1:5672", "management.tcp.ip": "any", "ssl_options": "[]",
        "management.ssl_config": "[]",
    }  # fmt: skip
    seen = Snapshot(
        "data1", HostFactsSeen("debian", "12", 1, 1), units={rabbitmq_members.UNIT: RUNNING},
        answers={name: Answer(values) for name, values in answers.items()},
    )  # fmt: skip
    found = steps(replace(state, resources=mine), seen, "CA")
    assert {(step.key.partition(":")[2], step.step, step.pending) for step in found} == {
        (name, StepClass.RESTART, True)
        for name in ("listeners.tcp.1", "management.tcp.ip", "ssl_options", "management.ssl_config")
    }


def test_members_in_the_clear_are_not_asked_what_they_serve() -> None:
    """Until they were stopped together nothing could be served there; clients' ports are owed a roll, which is said."""
    numbers = [SERVICES["rabbitmq"].port(name).number for name in ("distribution", "amqps")]
    shown: dict[tuple[str, int, str], bool | None] = {("data1", number, "canary"): None for number in numbers}
    wrong = list(verify.wrongly(fleet(), shown, taken=["canary"]))
    assert [error.subject for error in wrong] == ["rabbitmq, port 5671"]
    shown["data1", numbers[0], "canary"] = False
    assert len(list(verify.wrongly(fleet(), shown, taken=["canary"]))) == 2, "one that answers has to answer rightly"


# -- what members say -----------------------------------------------------------------------------------------


def test_members_that_do_not_understand_one_another_are_refused() -> None:
    one, two, three = (replace(up(name, ALL), links="tls") for name in "abc")
    assert rabbitmq_members._same_links([one, two, three], wanted=True) == "tls"
    waiting = replace(three, up=False, links="plain")
    with pytest.raises(FleetError) as caught:
        rabbitmq_members._same_links([one, two, waiting], wanted=True)
    assert caught.value.host == "c"
    assert "by TLS (a, b) and in the clear (c)" in caught.value.found
    assert "on c: systemctl stop rabbitmq-server.service" in caught.value.hint
    # Whoever serves goes on, whatever the setting says.
    with pytest.raises(FleetError) as caught:
        rabbitmq_members._same_links([one, two, waiting], wanted=False)
    assert caught.value.host == "c"


def test_how_a_member_is_reached_is_its_own_word() -> None:
    values = {"up": "yes", "links": "plain", "clients": "plain", "file-data": "held"}
    seen = Snapshot(
        "a", HostFactsSeen("debian", "12", 1, 1), units={rabbitmq_members.UNIT: RUNNING},
        answers={rabbitmq_members.QUERY: Answer(values)},
    )  # fmt: skip
    member = rabbitmq_members.member("a", seen)
    assert (member.links, member.clients) == ("plain", "plain")
    paused = replace(seen, answers={rabbitmq_members.QUERY: Answer(values | {"up": "no"})})
    assert (rabbitmq_members.member("a", paused).links, rabbitmq_members.member("a", paused).clients) == ("plain", "")


def shut(name: str) -> rabbitmq_members.Member:
    return rabbitmq_members.Member(
        name, empty=False, active=True, up=False, error="erl_call: failed", nodes=ALL, links="tls", shut=True
    )


def test_members_whose_certificates_have_ended_do_not_stop_the_apply_that_brings_others() -> None:
    found = rabbitmq_members.cluster([shut(name) for name in "abc"], "judge")
    assert (found.leader, found.empty) == ("a", frozenset())
    silent = [replace(shut(name), shut=False) for name in "abc"]
    with pytest.raises(FleetError):
        rabbitmq_members.cluster(silent, "judge")
    one = Snapshot(
        "a", HostFactsSeen("debian", "12", 1, 1), units={rabbitmq_members.UNIT: RUNNING},
        answers={rabbitmq_members.QUERY: Answer({"file-data": "held", "shut": "yes"}, "erl_call: failed")},
    )  # fmt: skip
    assert (rabbitmq_members.member("a", one).shut, rabbitmq_members.member("a", one).links) == (True, "tls")
    # What the host says after its broker has read the new one counts before anything else is asked of it.
    order = [item.key for item in rabbitmq.desired(context()) if isinstance(item, Parameter)]
    assert order.index("rabbitmq: certificates") < order.index("rabbitmq-application:application")


@pytest.mark.parametrize("days", [9, 0])
def test_only_a_certificate_that_has_ended_is_taken_for_the_reason(days: int, tmp_path: Path) -> None:
    authority(tmp_path, rabbitmq="serverAuth")
    script = next(i for i in rabbitmq.desired(context()) if isinstance(i, Parameter) and i.label.endswith("copies"))
    tools = f'openssl() {{ case $* in *checkend*) return {int(days == 0)} ;; *) command openssl "$@" ;; esac; }}\n'
    tools += "timeout() { echo refused; return 1; }\nsystemctl() { echo 0; }\n"
    env = tmp_path / "env"
    env.write_text("-proto_dist inet_tls")
    text_ = script.query.script.replace(rabbitmq_ask.ENV, str(env)).replace("/etc/omegaup/ssl", str(tmp_path))
    done = subprocess.run(["sh", "-eu"], input=tools + text_, text=True, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert ("shut\tyes" in done.stdout.splitlines()) == (days == 0)
    assert "refused" in done.stdout


# -- the bridge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_asking_parses_and_takes_the_bridge_by_tls_alone(shell: str, tmp_path: Path) -> None:
    script = rabbitmq_ask.ask(25672, "fleet.\n").replace(rabbitmq_ask.ENV, str(tmp_path / "env"))
    tools = 'systemctl() { echo 0; }\ntimeout() { printf "%s " "$3" "$4"; printf "{ok, fleet}"; }\n'
    for words, first in (("NODENAME=x\n", "20 erl_call"), ('X="-proto_dist inet_tls -x"\n', "20 perl")):
        (tmp_path / "env").write_text(words)
        done = subprocess.run(
            [shell, "-eu"], input=tools + script, text=True, capture_output=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == first.split()


def test_perl_takes_the_bridge(tmp_path: Path) -> None:
    assert "'" not in rabbitmq_ask._BRIDGE, "it is quoted by them"
    done = subprocess.run(
        ["perl", "-c", "-e", rabbitmq_ask._BRIDGE], text=True, capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_the_bridge_hands_on_the_word_of_a_tool_that_fails(tmp_path: Path) -> None:
    """It does not wait for a connection that will not come."""
    done = subprocess.run(
        ["perl", "-e", rabbitmq_ask._BRIDGE, "sh", "-c", "echo no cookie; exit 1", "-address", "127.0.0.1:1"],
        text=True, capture_output=True, check=False, timeout=10, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "no cookie\n")


def test_the_lists_are_told_apart(tmp_path: Path) -> None:
    """One file for each authority, by its name; what else was there goes; then nothing is owed."""
    source, lists = tmp_path / "ca.crl", tmp_path / "lists"
    lists.mkdir()
    (lists / "00000000.r0").write_text("an earlier authority's")
    for name in ("one", "two"):
        authority(tmp_path / name, name)
    source.write_text("".join((tmp_path / name / "ca.crl").read_text() for name in ("one", "two")))

    def run(act: bool) -> str:
        script = render("rabbitmq/lists.sh.j2", lists=lists, source=source, act=act)
        done = subprocess.run(["sh", "-eu"], input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(act=False) == "files\tothers\n"
    run(act=True)
    assert run(act=False) == f"files\tthose of {source}\n"
    assert len(list(lists.iterdir())) == 2
    assert all(path.read_text().count("BEGIN X509 CRL") == 1 for path in lists.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "ca.crl", "lists"}, "nothing is left behind"
    source.unlink()
    assert run(act=False) == "files\tothers\n", "a host that has none yet"


def test_the_catalog_says_which_port_takes_whose_place() -> None:
    service = SERVICES["rabbitmq"]
    for port in service.ports:
        if port.instead:
            assert service.port(port.instead).loopback
            assert port.tls is Tls.MUTUAL
    assert json.dumps(sorted(port.name for port in service.ports if port.tls is Tls.MUTUAL)) == json.dumps(
        ["amqps", "distribution", "management-tls"]
    )
