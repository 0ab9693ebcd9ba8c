"""Who gets in: real handshakes against a listening service."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from omegaup_services.gitserver import Gitserver
from omegaup_services.schema import ConfigError
from omegaup_services.tls import Material, peer_name, peer_roles, prove

from tests.unit.services.support import (
    Authority,
    Client,
    context,
    gitserver_config,
    running,
    serial_of,
)

REFUSED = (aiohttp.ClientError, ssl.SSLError, ConnectionError)


def attempt(ca: Authority, root: Path, tls: ssl.SSLContext, path: str = "/health") -> int:
    """The status a client gets from a gitserver; raises one of REFUSED when the handshake fails."""

    async def go() -> int:
        async with running(Gitserver(gitserver_config(ca, root))) as service:
            return (await Client(service.ports[0], tls).get(path))[0]

    return asyncio.run(go())


def test_right_certificate_is_served(ca: Authority, tmp_path: Path) -> None:
    assert attempt(ca, tmp_path, context(ca.path, ca.issue("monitoring"))) == 200


def test_no_certificate_is_refused(ca: Authority, tmp_path: Path) -> None:
    with pytest.raises(REFUSED):
        attempt(ca, tmp_path, context(ca.path))


def test_certificate_of_another_authority_is_refused(ca: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other root")
    with pytest.raises(REFUSED):
        attempt(ca, tmp_path, context(ca.path, other.issue("monitoring")))


def test_expired_certificate_is_refused(ca: Authority, tmp_path: Path) -> None:
    with pytest.raises(REFUSED):
        attempt(ca, tmp_path, context(ca.path, ca.issue("monitoring", expired=True)))


def test_server_of_another_authority_is_refused_by_clients(ca: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other root")
    with pytest.raises(REFUSED):
        attempt(ca, tmp_path, context(other.path, ca.issue("monitoring")))


def test_tls_1_1_is_refused_and_1_2_served(ca: Authority, tmp_path: Path) -> None:
    tls = context(ca.path, ca.issue("monitoring"))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    assert attempt(ca, tmp_path, tls) == 200
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(REFUSED):
        attempt(ca, tmp_path, tls)


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        ("monitoring", "/health", 200),
        ("monitoring", "/health/", 200),
        ("monitoring", "/metrics", 200),
        ("monitoring", "/problem/sumas/settings", 403),
        ("gitserver", "/health", 200),
        ("gitserver", "/problem/sumas/settings", 403),
        ("grader", "/problem/sumas/settings", 404),
        ("frontend", "/problem/sumas/settings", 404),
        ("runner", "/health", 403),
        ("runner", "/problem/sumas/settings", 403),
        ("runner", "/health/../problem/sumas/settings", 403),
        ("monitoring", "/health%2f..%2fproblem/sumas/settings", 404),
        ("runner", "/nothing", 403),
        ("grader", "/nothing", 404),
        (None, "/health", 403),
    ],
)
def test_role_decides(ca: Authority, tmp_path: Path, role: str | None, path: str, status: int) -> None:
    assert attempt(ca, tmp_path, context(ca.path, ca.issue(role)), path) == status


def test_wrong_role_is_told_in_json(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with running(Gitserver(gitserver_config(ca, tmp_path))) as service:
            client = Client(service.ports[0], context(ca.path, ca.issue("runner")))
            assert await client.get("/health") == (
                403,
                {"status": "error", "error": "role runner may not call /health"},
            )

    asyncio.run(go())


def test_only_the_frontend_writes(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        async with running(Gitserver(gitserver_config(ca, tmp_path))) as service:
            grader = Client(service.ports[0], context(ca.path, ca.issue("grader")))
            frontend = Client(service.ports[0], context(ca.path, ca.issue("frontend")))
            path, settings = "/problem/sumas/settings", {"limits": {"time": "1s"}}
            assert (await grader.put(path, settings))[0] == 403
            assert (await frontend.put(path, settings))[0] == 201
            assert (await frontend.put(path, settings))[0] == 200
            assert await grader.get(path) == (200, settings)
            assert (await frontend.call("PUT", "/problem/sumas/statement/es", data=b"# Suma"))[0] == 201
            assert await grader.get("/problem/sumas/statement/es") == (200, "# Suma")
            assert (await frontend.put("/problem/..%2f..%2fetc/settings", settings))[0] == 400
            assert (await frontend.put("/problem/.git/settings", settings))[0] == 400
            assert (await frontend.call("PUT", path, data=b"{"))[0] == 400
            assert (await frontend.call("PUT", path, data=b"x" * 2**21))[0] == 413
            assert (await frontend.call("DELETE", path))[0] == 405
        left = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob(".*")]
        assert left == [], "temporary files were left"

    asyncio.run(go())


def test_unwritable_root_is_named(ca: Authority, tmp_path: Path) -> None:
    async def go() -> None:
        root = tmp_path / "root"
        root.mkdir()
        async with running(Gitserver(gitserver_config(ca, root))) as service:
            client = Client(service.ports[0], context(ca.path, ca.issue("monitoring")))
            root.rmdir()
            status, answer = await client.get("/health")
            assert status == 503
            assert answer["status"] == "error"
            assert "not writable" in answer["checks"]["root"]

    asyncio.run(go())


def test_revoked_certificate_is_refused(ca: Authority, tmp_path: Path) -> None:
    good, bad = ca.issue("monitoring", "good"), ca.issue("monitoring", "bad")
    config = gitserver_config(ca, tmp_path)
    config = replace(config, tls=replace(config.tls, crl=ca.revoke(bad)))

    async def go() -> None:
        async with running(Gitserver(config)) as service:
            assert (await Client(service.ports[0], context(ca.path, good)).get("/health"))[0] == 200
            with pytest.raises(REFUSED):
                await Client(service.ports[0], context(ca.path, bad)).get("/health")

    asyncio.run(go())


def test_prove_tells_what_clients_will_see(ca: Authority) -> None:
    pair = ca.issue("grader")
    assert prove(pair).serial == serial_of(pair)


def test_unservable_pairs_are_refused_with_a_reason(ca: Authority, tmp_path: Path) -> None:
    pair = ca.issue("grader")
    other = Authority(tmp_path / "other", "other root")
    cases = {
        "expired": ca.issue("grader", "old", expired=True),
        "not acceptable under": replace(pair, ca=other.path),
        "not a usable pair": replace(pair, key=ca.issue("runner").key),
        "cannot be read": replace(pair, key=tmp_path / "absent.key"),
        "cannot be loaded": replace(pair, ca=tmp_path / "absent.pem"),
    }
    for words, case in cases.items():
        with pytest.raises(ConfigError, match=words):
            Material(case)


def test_roles_and_name_of_a_peer() -> None:
    subject = (
        (("commonName", "grader1"),),
        (("organizationalUnitName", "grader"), ("organizationalUnitName", "monitoring")),
    )
    assert peer_roles({"subject": subject}) == {"grader", "monitoring"}
    assert peer_name({"subject": subject}) == "grader1"
    assert peer_roles(None) == frozenset()
    assert peer_name({}) == ""
