"""A real Erlang with the fleet's options of TLS: who may talk to it, and the bridge by which it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.converge.desired import render
from deploy.model.catalog import SSL_DIR
from deploy.roles import rabbitmq_ask, rabbitmq_tls
from deploy.trust.authority import Authority
from deploy.trust.certificates import LeafProfile, describe
from tests.unit.frontend.fakes import free_port, stop, wait_for_port
from tests.unit.roles.test_rabbitmq_tls import context, text
from tests.unit.trust.keys import key_pem, make_csr, ssh_key
from tests.unit.trust.made import authority, issued, listed

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("erl", "erl_call", "openssl", "perl"))), reason="no Erlang here"
)

COOKIE = "ACOOKIETHATISLONGENOUGH"


class Node:
    """Erlang that takes connections as a member does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, epmd = folder, free_port(), free_port()
        (folder / ".erlang.cookie").write_text(COOKIE)
        (folder / ".erlang.cookie").chmod(0o400)
        (folder / "links.config").write_text(text(context(), rabbitmq_tls.LINKS).replace(SSL_DIR, str(folder)))
        self.environment = {**os.environ, "HOME": str(folder), "ERL_EPMD_PORT": str(epmd)}
        self.epmd = subprocess.Popen(["epmd", "-port", str(epmd)], env=self.environment)
        wait_for_port(epmd, self.epmd)
        ports = f"-kernel inet_dist_listen_min {self.port} inet_dist_listen_max {self.port}"
        options = f"-noinput -sname member@localhost {ports} -proto_dist inet_tls"
        self.process = subprocess.Popen(
            ["erl", *options.split(), "-ssl_dist_optfile", str(folder / "links.config")], env=self.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for_port(self.port, self.process, 60)

    def close(self) -> None:
        stop(self.process)
        stop(self.epmd)

    def asked(self, expressions: str) -> tuple[int, str]:
        """Exit code and output of the shell with which a host asks its broker."""
        script = rabbitmq_ask.ask(self.port, expressions).replace(SSL_DIR, str(self.folder))
        script = script.replace("HOME=/var/lib/rabbitmq", f"HOME={self.folder}")
        (self.folder / "env").write_text("-proto_dist inet_tls")
        script = "systemctl() { echo 0; }\n" + script.replace(rabbitmq_ask.ENV, str(self.folder / "env"))
        done = subprocess.run(
            ["sh", "-eu"], input=script, text=True, capture_output=True, check=False, env=self.environment, timeout=60
        )
        return done.returncode, done.stdout

    def takes(self, pair: str) -> bool:
        shown = ["-cert", f"{pair}.crt", "-key", f"{pair}.key"] if pair else []
        address = f"localhost:{self.port}"
        command = ["openssl", "s_client", "-tls1_2", "-connect", address, "-CAfile", "ca.crt", *shown]
        done = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30
        )
        return done.returncode == 0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    authority(folder, rabbitmq="serverAuth,clientAuth", other="clientAuth", server="serverAuth")
    made = Node(folder)
    yield made
    made.close()


def test_it_is_asked_by_tls(node: Node) -> None:
    assert node.asked('io:format("~p", [init:get_argument(proto_dist)]),\nfleet.\n') == (0, '{ok,[["inet_tls"]]}')


def test_a_long_answer_comes_whole(node: Node) -> None:
    code, said = node.asked('io:format("~s", [lists:duplicate(300000, $x)]),\nfleet.\n')
    assert (code, said) == (0, "x" * 300000)


def test_a_long_question_goes_whole(node: Node) -> None:
    code, said = node.asked(f'io:format("~b", [length("{"y" * 200000}")]),\nfleet.\n')
    assert (code, said) == (0, "200000")


def test_another_cookie_is_refused(node: Node) -> None:
    cookie = node.folder / ".erlang.cookie"
    cookie.chmod(0o600)
    cookie.write_text("ANOTHERCOOKIE")
    cookie.chmod(0o400)
    try:
        assert node.asked("fleet.\n")[0] == 1
    finally:
        cookie.chmod(0o600)
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)


def test_a_good_clients_certificate_is_taken_and_no_other(node: Node, tmp_path: Path) -> None:
    authority(tmp_path / "stranger", "Other CA", stranger="clientAuth")
    for end in ("crt", "key"):
        shutil.copy(tmp_path / f"stranger/stranger.{end}", node.folder)
    taken = {pair: node.takes(pair) for pair in ("", "rabbitmq", "other", "server", "stranger")}
    assert taken == {"": False, "rabbitmq": True, "other": True, "server": False, "stranger": False}


def test_a_revoked_one_is_refused_at_once(node: Node) -> None:
    issued(node.folder, "lost", "clientAuth")
    assert node.takes("lost")
    listed(node.folder, "lost")
    assert not node.takes("lost")
    assert node.takes("other")


def test_a_renewed_one_is_served_once_it_is_told(node: Node) -> None:
    """The cache of members' connections, which ssl:clear_pem_cache/0 does not know."""

    def served() -> str:
        command = f"openssl s_client -connect localhost:{node.port} -cert other.crt -key other.key"
        script = f"{command} </dev/null 2>/dev/null | openssl x509 -noout -serial"
        return subprocess.run(
            ["sh", "-c", script], cwd=node.folder, text=True, capture_output=True, check=True
        ).stdout.strip()

    before = served()
    issued(node.folder, "rabbitmq", "serverAuth,clientAuth")
    assert served() == before
    assert node.asked(rabbitmq_tls.FORGET)[0] == 0
    assert served() != before


def test_certificates_and_lists_of_the_fleets_own_authority(tmp_path: Path) -> None:
    """Erlang takes what the fleet signs, and refuses what it revoked, at the next handshake."""
    operator = ssh_key(tmp_path / "ana", "-t", "ed25519")
    own = Authority.create(tmp_path / "pki", "lab", [operator.public], key_bits=2048)
    signer, folder = own.unlock(operator.identities), tmp_path / "node"
    folder.mkdir()
    made = {}
    for name, server in (("rabbitmq", True), ("proxy", False), ("lost", False)):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        profile = LeafProfile(
            common_name=name, role=name, organization="lab", dns_names=("localhost",), ip_addresses=("127.0.0.1",),
            server_auth=server, client_auth=True, days=90,
        )  # fmt: skip
        made[name] = signer.sign(make_csr(key), profile)
        (folder / f"{name}.crt").write_text(made[name])
        (folder / f"{name}.key").write_bytes(key_pem(key))
    (folder / "ca.crt").write_text(own.certificate_pem)

    def brought() -> None:
        (folder / "ca.crl").write_text(own.list_pem())
        script = render("rabbitmq/lists.sh.j2", lists=folder / "lists", source=folder / "ca.crl", act=True)
        subprocess.run(["sh", "-eu"], input=script, text=True, check=True)

    brought()
    node = Node(folder)
    try:
        assert {name: node.takes(name) for name in made} == dict.fromkeys(made, True)
        assert node.asked("fleet.\n")[0] == 0
        own.revoke([describe(made["lost"]).serial], "key-compromise", "ana")
        signer.sign_list(90)
        brought()
        assert {name: node.takes(name) for name in made} == {"rabbitmq": True, "proxy": True, "lost": False}
    finally:
        node.close()
