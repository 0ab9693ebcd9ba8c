"""Attack inputs against the services: refused, never an internal error; who says nothing costs little and goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaup_services import httpd, listening, strict
from omegaup_services.broadcaster import RULES as BROADCASTER_RULES
from omegaup_services.broadcaster import Broadcaster
from omegaup_services.config import MysqlAgentConfig, Sandbox
from omegaup_services.gitserver import RULES as GITSERVER_RULES
from omegaup_services.gitserver import Gitserver
from omegaup_services.grader.app import FRONT_RULES, RUNNER_RULES, Grader
from omegaup_services.grader.store import MemoryStore
from omegaup_services.mysqlagent import RULES as AGENT_RULES
from omegaup_services.mysqlagent import MysqlAgent
from omegaup_services.runner.app import RULES as RUNNER_OWN_RULES
from omegaup_services.runner.judge import NoopJudge, Result, SandboxJudge
from omegaup_services.worker.consumer import Invalid
from omegaup_services.worker.messages import json_message

from deploy.model.catalog import SERVICES
from tests import attacks
from tests.unit.services.support import (
    LOOPBACK,
    Authority,
    Client,
    broadcaster_config,
    context,
    gitserver_config,
    grader_config,
    running,
    until,
)
from tests.unit.services.test_services_grader import SUBMISSION, judge

CASE = {"input": "1", "output": "1"}
OTHER = "127.0.0.9"
"""Where an attacker comes from: another address than everybody else."""


@dataclass
class Backends:
    ca: Authority
    gitserver: int
    broadcaster: int
    grader: int
    runners: int

    def as_(self, role: str) -> ssl.SSLContext:
        return context(self.ca.path, self.ca.issue(role, f"as-{role}"))


@contextlib.asynccontextmanager
async def backends(ca: Authority, folder: Path) -> AsyncIterator[Backends]:
    root = folder / "root"
    root.mkdir()
    async with (
        running(Gitserver(gitserver_config(ca, root))) as gitserver,
        running(Broadcaster(broadcaster_config(ca))) as broadcaster,
        running(Grader(grader_config(ca, gitserver.ports[0], broadcaster.ports[0]), MemoryStore())) as grader,
    ):
        yield Backends(ca, gitserver.ports[0], broadcaster.ports[0], *grader.ports)


async def sent(port: int, tls: ssl.SSLContext, data: bytes, patience: float = 0.7) -> bytes:
    """All that comes back on a connection that is left open for as long as the patience (seconds)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
    found = b""
    try:
        async with asyncio.timeout(patience):
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            while piece := await reader.read(65536):
                found += piece
    except (TimeoutError, OSError):
        pass
    finally:
        writer.transport.abort()
    return found


def codes(answer: bytes) -> list[int]:
    return [int(part[2:5]) for part in answer.split(b"HTTP/1.")[1:] if part[2:5].isdigit()]


def test_no_request_hides_in_another(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            tls = at.as_("frontend")
            twin = attacks.request("GET /health HTTP/1.1") + attacks.INNER
            assert codes(await sent(at.gitserver, tls, twin)) == [200, 404], "the probe would see one"
            for name, data in attacks.smuggling("PUT", "/problem/a/settings").items():
                found = codes(await sent(at.gitserver, tls, data))
                # Answered once at most; a second line is the end of a connection that made no sense.
                assert found[:1] in ([400], []), name
                assert 404 not in found, name
                assert 200 not in found, name

    asyncio.run(go())


def test_a_malformed_request_is_one_line_of_the_log(
    ca: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            for data in (*attacks.smuggling("GET", "/health").values(), *attacks.oversize_headers("/").values()):
                await sent(at.gitserver, at.as_("frontend"), data, 0.3)

    asyncio.run(go())
    said = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert len(said) > 10
    for record in said:
        assert record.exc_info is None
        assert record.getMessage().startswith("malformed request")
        assert "\n" not in record.getMessage()
        assert len(record.getMessage()) < 150


def test_what_is_too_large_is_refused(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            tls = at.as_("frontend")
            for name, data in attacks.oversize_headers("/health").items():
                found = codes(await sent(at.gitserver, tls, data))
                assert all(400 <= code < 500 for code in found), (name, found)
            client = Client(at.gitserver, tls)
            status, _ = await client.call("PUT", "/problem/a/statement/es", data=b"a" * (2 << 20))
            assert status == 413
            assert (await client.get("/health"))[0] == 200

    asyncio.run(go())


def test_no_path_leads_out_of_the_gitserver(ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"secret": "not a problem"}')

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            tls = at.as_("frontend")
            assert (await Client(at.gitserver, tls).put("/problem/sumas/settings", {}))[0] == 201
            before = sorted(str(path) for path in tmp_path.rglob("*") if "pki" not in path.parts)
            for path in attacks.TRAVERSALS:
                for method, body in (("GET", b""), ("PUT", b"{}")):
                    line = f"{method} {path} HTTP/1.1".encode().decode("latin-1")
                    data = attacks.request(line, f"Content-Length: {len(body)}", "Connection: close", body=body)
                    found = await sent(at.gitserver, tls, data)
                    assert codes(found) in ([400], [404], [405], []), (method, path, found)
                    assert b"not a problem" not in found
            assert sorted(str(path) for path in tmp_path.rglob("*") if "pki" not in path.parts) == before

    asyncio.run(go())


def test_what_is_no_json_is_the_senders_fault(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            frontend, runner = at.as_("frontend"), at.as_("runner")
            places: tuple[tuple[int, ssl.SSLContext, str, str], ...] = (
                (at.gitserver, frontend, "PUT", "/problem/a/settings"),
                (at.broadcaster, at.as_("grader"), "POST", "/broadcast/"),
                (at.grader, frontend, "POST", "/submission/new"),
                (at.runners, runner, "POST", "/run/register"),
                (at.runners, runner, "POST", "/run/unregister"),
                (at.runners, runner, "POST", "/run/result/1"),
            )
            for port, tls, method, path in places:
                for name, body in attacks.malformed_json().items():
                    status, said = await Client(port, tls).call(method, path, data=body)
                    assert 400 <= status < 500, (path, name, status, said)

    asyncio.run(go())


@pytest.mark.parametrize("number", ["9" * 5000, "\u0661", "\u00b2", "-1", "1" * 19])
def test_numbers_that_are_none(ca: Authority, tmp_path: Path, number: str) -> None:
    """In a path, in a runner's header, and in what a browser sends when it comes back to a stream."""

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            runner = Client(at.runners, at.as_("runner"))
            result = {"lease": "x", "verdict": "AC", "score": 1, "time_ms": 1, "memory_bytes": 1}
            assert (await runner.post(f"/run/result/{number}", result))[0] == 409
            assert (await runner.post("/run/register", {"name": "r", "slots": 1}))[0] == 200
            headers = {"OmegaUp-Runner-Name": "r", "OmegaUp-Runner-Holding": f"1,{number}"}
            assert (await runner.get("/run/request/", headers=headers))[0] == 204
            event = {"event": "run", "data": 1}
            assert (await Client(at.broadcaster, at.as_("grader")).post("/broadcast/", event))[0] == 200
            first = await sent(at.broadcaster, at.as_("frontend"), stream("x"), 0.4)
            life = first.partition(b"id: ")[2].partition(b"-")[0].decode()
            assert life
            found = await sent(at.broadcaster, at.as_("frontend"), stream(f"{life}-{number}"), 0.4)
            assert codes(found) == [200]
            assert b"event: run" in found, "it is told all that is kept"

    def stream(last: str) -> bytes:
        return f"GET /events/ HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {last}\r\n\r\n".encode()

    asyncio.run(go())


@pytest.mark.parametrize("verdict", [[], {}, None, 1, True])
def test_a_verdict_of_another_kind(ca: Authority, tmp_path: Path, verdict: Any) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            body = {"lease": "x", "verdict": verdict, "score": 1, "time_ms": 1, "memory_bytes": 1}
            assert (await Client(at.runners, at.as_("runner")).post("/run/result/1", body))[0] == 400

    asyncio.run(go())


def test_noise(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            tls = at.as_("frontend")
            for data in attacks.noise(seed=7, count=60):
                found = codes(await sent(at.broadcaster, tls, data, 0.1))
                assert all(400 <= code < 500 for code in found), (data[:40], found)
            for data in attacks.noise(seed=8, count=60):  # without TLS
                with socket.create_connection(("127.0.0.1", at.broadcaster)) as plain:
                    plain.sendall(data)
            assert (await Client(at.broadcaster, at.as_("monitoring")).get("/health"))[0] == 200

    asyncio.run(go())


def test_an_invented_method_makes_no_figure_of_its_own(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            for number in range(5):
                line = f"INVENTED{number} /health HTTP/1.1"
                await sent(at.gitserver, at.as_("frontend"), attacks.request(line, "Connection: close"))
            for method in ("LOCK", "PROPFIND", "MKCOL"):
                line = f"{method} /health HTTP/1.1"
                await sent(at.gitserver, at.as_("frontend"), attacks.request(line, "Connection: close"))
            _, text = await Client(at.gitserver, at.as_("monitoring")).get("/metrics")
            assert "INVENTED" not in text
            assert "LOCK" not in text
            assert 'method="other"' in text

    asyncio.run(go())


async def opened(port: int, count: int, address: str = OTHER) -> list[socket.socket]:
    """Connections that say nothing."""
    found = []
    for _ in range(count):
        one = socket.socket()
        one.bind((address, 0))
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
        found.append(one)
    return found


def test_many_who_say_nothing_keep_nobody_else_waiting(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            silent = await opened(at.gitserver, listening.AT_ONCE * 4)
            try:
                client = Client(at.gitserver, at.as_("frontend"))
                begun = time.monotonic()
                for _ in range(10):
                    assert (await client.get("/health"))[0] == 200
                assert time.monotonic() - begun < 3
            finally:
                for one in silent:
                    one.close()

    asyncio.run(go())


def test_those_of_one_address_wait_for_one_another(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: it is the turns that hold them back. And their place is free again when they have gone."""
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 0.5)

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            silent = await opened(at.gitserver, listening.AT_ONCE, "127.0.0.1")
            client = Client(at.gitserver, at.as_("frontend"))
            begun = time.monotonic()
            assert (await client.get("/health"))[0] == 200
            assert time.monotonic() - begun > 0.3, "it waited until the others were given up"
            for one in silent:
                one.close()
            begun = time.monotonic()
            assert (await client.get("/health"))[0] == 200
            assert time.monotonic() - begun < 0.3

    asyncio.run(go())


def test_an_address_has_so_many_connections_and_no_more(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "AT_MOST", 5)

    async def closed(one: socket.socket) -> bool:
        try:
            async with asyncio.timeout(0.5):
                return await asyncio.get_running_loop().sock_recv(one, 1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            many = await opened(at.gitserver, 7)
            assert [await closed(one) for one in many] == [False] * 5 + [True] * 2
            assert (await Client(at.gitserver, at.as_("frontend")).get("/health"))[0] == 200
            for one in many:
                one.close()
            await asyncio.sleep(0.1)
            again = await opened(at.gitserver, 1)
            assert not await closed(again[0])
            again[0].close()

    asyncio.run(go())


@pytest.mark.parametrize("beginning", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_does_not_come_is_not_waited_for(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(listening, "FIRST_SECONDS", 0.6)

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            begun = time.monotonic()
            assert await sent(at.gitserver, at.as_("frontend"), beginning, 5) == b""
            assert time.monotonic() - begun < 2
            # Who has asked once may keep its connection.
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", at.gitserver, ssl=at.as_("frontend"), server_hostname="localhost"
            )
            for pause in (0.0, 1.0):
                await asyncio.sleep(pause)
                writer.write(attacks.request("GET /health HTTP/1.1"))
                assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(go())


def test_a_body_that_does_not_come_is_not_waited_for(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpd, "BODY_SECONDS", 0.4)

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            for path in ("/problem/a/settings", "/problem/a/statement/es"):
                data = attacks.request(f"PUT {path} HTTP/1.1", "Content-Length: 100", body=b'{"a"')
                assert codes(await sent(at.gitserver, at.as_("frontend"), data, 5)) == [408]

    asyncio.run(go())


def test_who_may_not_ask_holds_no_connection(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            begun = time.monotonic()
            assert codes(await sent(at.gitserver, at.as_("worker"), attacks.request("GET /health HTTP/1.1"), 5)) == [
                403
            ]
            assert time.monotonic() - begun < 2

    asyncio.run(go())


def test_the_agents_plain_port_is_not_held_either(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "FIRST_SECONDS", 0.6)
    config = MysqlAgentConfig(
        listen=LOOPBACK, role_listen=LOOPBACK, tls=ca.issue("mysql"), socket=tmp_path / "none", shutdown_seconds=1.0,
        drain_file=tmp_path / "drain",
    )  # fmt: skip

    async def go() -> None:
        async with running(MysqlAgent(config)) as agent:
            assert isinstance(agent, MysqlAgent)
            silent = await opened(agent.role_port, listening.AT_ONCE * 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", agent.role_port)
            writer.write(attacks.request("GET /primary HTTP/1.1", "Connection: close"))
            assert (await reader.read()).startswith(b"HTTP/1.1 503"), "there is no server behind it"
            writer.close()
            ended = time.monotonic() + 5
            left = silent
            while left and time.monotonic() < ended:
                left = [one for one in left if not gone(one)]
                await asyncio.sleep(0.1)
            assert not left

    def gone(one: socket.socket) -> bool:
        try:
            return one.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    asyncio.run(go())


def test_files_run_out_and_come_back(ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that may open no more files rests, and takes whom the kernel has kept for it."""
    monkeypatch.setattr(listening, "EXHAUSTED_SECONDS", 0.3)

    async def go() -> None:
        async with backends(ca, tmp_path) as at:
            refused = 0

            class Exhausted:
                def __init__(self, real: socket.socket) -> None:
                    self.real = real

                def accept(self) -> Any:
                    nonlocal refused
                    refused += 1
                    if refused <= 2:
                        raise OSError(24, "Too many open files")
                    return self.real.accept()

                def __getattr__(self, name: str) -> Any:
                    return getattr(self.real, name)

            real = listening.Listener._bound
            monkeypatch.setattr(listening.Listener, "_bound", lambda self: Exhausted(real(self)))
            assert (await Client(at.gitserver, at.as_("frontend")).get("/health"))[0] == 200
            assert refused > 2

    asyncio.run(go())


def test_connections_are_forgotten_when_they_end(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with running(Gitserver(gitserver_config(ca, tmp_path))) as service:
            guests = service._listeners[0]._guests
            client = Client(service.ports[0], context(ca.path, ca.issue("frontend")))
            for _ in range(20):
                assert (await client.get("/health"))[0] == 200
            for one in await opened(service.ports[0], 20):
                one.close()
            await until(lambda: not guests._open and not guests._served and not guests._turns)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("service", "port", "rules"),
    [
        ("gitserver", "https", GITSERVER_RULES),
        ("broadcaster", "https", BROADCASTER_RULES),
        ("grader", "https", FRONT_RULES),
        ("grader", "runners", RUNNER_RULES),
        ("runner", "https", RUNNER_OWN_RULES),
        ("mysql", "seed", AGENT_RULES),
    ],
)
def test_who_may_ask_is_who_the_catalog_lets_connect(service: str, port: str, rules: httpd.Rules) -> None:
    """A role that may call something is one for which the firewall opens the port, or the service's own."""
    catalogued = SERVICES[service].port(port).clients | {service}
    assert frozenset().union(*rules.values()) <= catalogued
    assert rules["/health"] == catalogued


SETTINGS: dict[str, dict[str, Any]] = {
    "cases that are a number": {"cases": 5}, "cases that are words": {"cases": ["a"]},
    "a case without input": {"cases": [{"output": "1"}]}, "a case without output": {"cases": [{"input": "1"}]},
    "a case that is none": {"cases": [None]}, "a weight that is a word": {"cases": [{**CASE, "weight": "much"}]},
    "a weight that is no number": {"cases": [{**CASE, "weight": "nan"}]},
    "a weight below nothing": {"cases": [{**CASE, "weight": -1}]},
    "a weight beyond all": {"cases": [{**CASE, "weight": "inf"}]},
    "a weight of nothing at all": {"cases": [{**CASE, "weight": None}]},
    "limits that are a list": {"limits": [1]}, "limits that are a word": {"limits": "all"},
    "a time that is a word": {"limits": {"time_ms": "long"}}, "a time without an end": {"limits": {"time_ms": "inf"}},
    "a time of many digits": {"limits": {"time_ms": "9" * 5000}}, "a time that is a list": {"limits": {"time_ms": []}},
}  # fmt: skip
"""What who may write a problem can write as its settings."""


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_make_no_sense_are_a_verdict(tmp_path: Path, name: str) -> None:
    judged, words = asyncio.run(
        SandboxJudge(Sandbox(socket=tmp_path / "none")).judge({"language": "py3", "source": ""}, SETTINGS[name])
    )
    assert judged.verdict == "JE"
    assert "settings" in words


def test_a_runner_goes_on_after_what_it_cannot_judge(ca: Authority, tmp_path: Path) -> None:
    """Its only slot: a fault with one submission is not the end of it."""

    class Broken(NoopJudge):
        async def judge(self, submission: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[Result, str]:
            if submission["source"] == "poison":
                raise RuntimeError("a fault")
            return await super().judge(submission, settings)

    async def go() -> None:
        async with judge(ca, tmp_path) as it:
            runner = it.add_runner()
            runner._judged = Broken(0.0)
            async with running(runner):
                for source, verdict in (("poison", "JE"), ("good", "AC"), ("poison", "JE"), ("good", "AC")):
                    number = f"{source}-{time.monotonic_ns()}"
                    body = {**SUBMISSION, "source": source, "submission_id": number}
                    assert (await it.frontend.post("/submission/new", body))[0] == 200
                    assert (await it.verdict(number))["verdict"] == verdict

    asyncio.run(go())


@pytest.mark.parametrize("name", attacks.malformed_json())
def test_a_message_that_is_no_json_is_invalid(name: str) -> None:
    """It goes to the dead letters; no worker ends over it."""
    with pytest.raises(Invalid):
        json_message(attacks.malformed_json()[name])


PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text()
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ANYTHING = st.recursive(PLAIN | NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(ANYTHING)
def test_what_is_json_is_read_as_it_is(data: Any) -> None:
    assert strict.loads(json.dumps(data).encode()) == json.loads(json.dumps(data))
    assert strict.loads(json.dumps(data, ensure_ascii=False).encode()) == data


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused(sent: bytes) -> None:
    with contextlib.suppress(ValueError):
        json.dumps(strict.loads(sent), ensure_ascii=False, allow_nan=False).encode()
