"""Secrets at rest: made once, never changed by accident, opened by their recipients alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.errors import FleetError
from deploy.model.secrets import SecretSpec
from deploy.trust import files
from deploy.trust.recipients import parse_recipients
from deploy.trust.sealing import seal
from deploy.trust.secret import Secret
from deploy.trust.vault import Vault
from tests.unit.trust.keys import Operator

SPECS = {
    "redis.password": SecretSpec("password", "Redis users"),
    "rabbitmq.cookie": SecretSpec("cookie", "Erlang distribution", 40),
    "grafana.key": SecretSpec("hex", "session signing", 64),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "lab").mkdir()
    return tmp_path / "lab" / "secrets.age"


@pytest.fixture
def vault(path: Path, alice: Operator) -> Vault:
    return Vault.create(path, [alice.public])


def test_what_is_saved_is_read_back(vault: Vault, path: Path, alice: Operator) -> None:
    assert vault.ensure(SPECS) == list(SPECS)
    vault.save()
    reopened = Vault.open(path, alice.identities)
    assert reopened.names() == sorted(SPECS)
    assert [reopened.get(name) for name in SPECS] == [vault.get(name) for name in SPECS]
    assert len(reopened.get("rabbitmq.cookie").reveal()) == 40
    assert reopened.created("grafana.key") == vault.created("grafana.key")


def test_nothing_is_readable_on_disk_and_no_temporary_file_stays(vault: Vault, path: Path) -> None:
    vault.ensure(SPECS)
    vault.save()
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")) == [
        "secrets.age",
        "secrets.recipients",
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    assert vault.sidecar.stat().st_mode & 0o777 == 0o644
    everything = b"".join(p.read_bytes() for p in path.parent.iterdir())
    for value in vault.values():
        assert value.reveal().encode() not in everything


def test_ensure_is_idempotent_and_changes_nothing_that_exists(vault: Vault, path: Path, alice: Operator) -> None:
    vault.put("redis.password", Secret("given by somebody else"))
    assert vault.ensure(SPECS) == ["rabbitmq.cookie", "grafana.key"]
    before = {name: vault.get(name) for name in SPECS}
    vault.save()
    reopened = Vault.open(path, alice.identities)
    assert reopened.ensure({**SPECS, "redis.password": SecretSpec("hex", "another kind", 99)}) == []
    assert {name: reopened.get(name) for name in SPECS} == before


def test_renew_replaces_one_value_only(vault: Vault) -> None:
    vault.ensure(SPECS)
    before = {name: vault.get(name) for name in SPECS}
    fresh = vault.renew("redis.password", SPECS["redis.password"])
    assert vault.get("redis.password") == fresh != before["redis.password"]
    assert vault.get("grafana.key") == before["grafana.key"]
    with pytest.raises(FleetError, match="secret 'other'"):
        vault.renew("other", SPECS["redis.password"])


def test_every_recipient_opens_it_and_nobody_else(path: Path, alice: Operator, bob: Operator, carol: Operator) -> None:
    vault = Vault.create(path, [alice.public, bob.public])
    vault.ensure(SPECS)
    vault.save()
    for operator in (alice, bob):
        assert Vault.open(path, operator.identities).names() == sorted(SPECS)
    with pytest.raises(FleetError, match="cannot decrypt") as caught:
        Vault.open(path, carol.identities)
    message = caught.value.message()
    assert str(carol.path) in message
    assert "alice@example.org" in message
    assert "bob@example.org" in message


def test_save_rekeys_to_the_recipients_it_is_given(path: Path, alice: Operator, carol: Operator) -> None:
    vault = Vault.create(path, [alice.public])
    vault.ensure(SPECS)
    vault.save([carol.public])
    assert Vault.open(path, carol.identities).names() == sorted(SPECS)
    with pytest.raises(FleetError, match="cannot decrypt"):
        Vault.open(path, alice.identities)
    Vault.open(path, carol.identities).save()  # the recorded recipients, i.e. carol
    assert Vault.open(path, carol.identities).names() == sorted(SPECS)


def test_a_save_that_dies_between_its_files_does_not_bring_a_removed_operator_back(
    path: Path, alice: Operator, bob: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault.create(path, [alice.public, bob.public])
    write = files.write_atomic

    def dying(target: Path, data: bytes, mode: int) -> None:
        if target == path:
            raise KeyboardInterrupt
        write(target, data, mode)

    monkeypatch.setattr(files, "write_atomic", dying)
    with pytest.raises(KeyboardInterrupt):
        vault.save([alice.public])
    monkeypatch.undo()
    Vault.open(path, alice.identities).save()  # to whom the sidecar says
    with pytest.raises(FleetError, match="cannot decrypt"):
        Vault.open(path, bob.identities)


def test_two_operators_at_once_do_not_undo_each_other(vault: Vault, path: Path, alice: Operator) -> None:
    first, second = Vault.open(path, alice.identities), Vault.open(path, alice.identities)
    first.ensure({"a": SecretSpec("token")})
    second.ensure({"b": SecretSpec("token")})
    first.save()
    with pytest.raises(FleetError, match="changed since it was opened"):
        second.save()
    assert Vault.open(path, alice.identities).names() == ["a"]
    first.ensure({"c": SecretSpec("token")})
    first.save()  # its own earlier save is no foreign change


def test_create_never_replaces(vault: Vault, path: Path, alice: Operator) -> None:
    before = path.read_bytes()
    with pytest.raises(FleetError, match="an existing secrets file"):
        Vault.create(path, [alice.public])
    assert path.read_bytes() == before


def test_a_vanished_file_is_not_silently_written_again(vault: Vault, path: Path) -> None:
    path.unlink()
    with pytest.raises(FleetError, match="removed since it was opened"):
        vault.save()
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "Redis", "a b", "a..b", "../x", ".a", "a\n"])
def test_names_are_plain(vault: Vault, name: str) -> None:
    with pytest.raises(FleetError, match="a name with other characters"):
        vault.put(name, Secret("x"))


def test_a_missing_secret_is_named(vault: Vault) -> None:
    with pytest.raises(FleetError, match=r"secret 'nope': found not among the 0 secrets.*fleet secrets init lab"):
        vault.get("nope")


Damage = Callable[[Path, Operator], object]


def sealed(plain: bytes) -> Damage:
    return lambda path, alice: path.write_bytes(seal(plain, parse_recipients([alice.public], "test")))


def cut(size: int) -> Damage:
    return lambda path, _: path.write_bytes(path.read_bytes()[:size])


def flip(offset: int) -> Damage:
    def damage(path: Path, _: Operator) -> None:
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        path.write_bytes(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "found", "hint"),
    [
        (lambda path, _: path.unlink(), "no such file", "fleet secrets init lab"),
        (cut(0), "0 bytes: truncated", "git checkout"),
        (cut(10), "10 bytes: truncated", "git checkout"),
        (cut(60), "truncated after 60 bytes", "git checkout"),
        (cut(-1), "altered or truncated", "git checkout"),
        (flip(-1), "altered or truncated", "git checkout"),
        (flip(0), "not an age file", "git checkout"),
        (lambda path, _: path.write_text("<<<<<<< HEAD\n"), "not an age file", "git checkout"),
        (sealed(b"not json: hunter2"), "not a secrets document", "Restore it"),
        (sealed(b"\xff\xfe hunter2"), "not a secrets document", "Restore it"),
        (sealed(b'["hunter2"]'), "not a secrets document", "Restore it"),
        (sealed(b'{"version": 1, "secrets": {"a": "hunter2"}}'), "not a secrets document", "Restore it"),
        (sealed(b'{"version": 1, "secrets": {"a": {"value": ""}}}'), "not a secrets document", "Restore it"),
        (sealed(b'{"version": 3, "secrets": {}}'), "version 3", "Update this program"),
    ],
)
def test_each_failure_has_one_clear_message(
    vault: Vault, path: Path, alice: Operator, damage: Damage, found: str, hint: str
) -> None:
    damage(path, alice)
    with pytest.raises(FleetError) as caught:
        Vault.open(path, alice.identities)
    message = caught.value.message()
    assert message.startswith(f"{path}: found ")
    assert found in message
    assert hint in message
    assert "\n" not in message
    # Nor may the exception's own chain, which a traceback would print, carry the document.
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hunter2" not in f"{chain} {vars(chain)}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


def test_no_identity_is_an_error_of_its_own(vault: Vault, path: Path) -> None:
    with pytest.raises(FleetError, match="no identity to decrypt with"):
        Vault.open(path, ())


def test_a_sidecar_that_disagrees_with_the_file_is_told(path: Path, alice: Operator, carol: Operator) -> None:
    vault = Vault.create(path, [alice.public])
    vault.sidecar.write_text(carol.public)
    with pytest.raises(FleetError, match="does list this key, so one of the two files is from another time"):
        Vault.open(path, carol.identities)
    vault.sidecar.unlink()
    with pytest.raises(FleetError, match=r"unknown \(secrets.recipients is missing or unreadable\)"):
        Vault.open(path, carol.identities)
    with pytest.raises(FleetError, match="expected the recorded list of recipients"):
        vault.save()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    )
)
def test_any_text_round_trips(tmp_path: Path, alice: Operator, values: dict[str, str]) -> None:
    path = tmp_path / "any.age"
    path.unlink(missing_ok=True)
    vault = Vault.create(path, [alice.public])
    for name, value in values.items():
        vault.put(name, Secret(value))
    vault.save()
    reopened = Vault.open(path, alice.identities)
    assert {name: reopened.get(name).reveal() for name in reopened.names()} == values


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(vault: Vault, path: Path, alice: Operator) -> None:
    vault.ensure(SPECS)
    vault.save()
    code = (
        "import sys; from pathlib import Path\n"
        "from deploy.trust.vault import Vault; from deploy.trust.secret import SecretSpec\n"
        "from deploy.trust.identities import load_identities\n"
        "v = Vault.open(Path(sys.argv[1]), load_identities(Path(sys.argv[2]))); print('go', flush=True)\n"
        "while True: v.renew('redis.password', SecretSpec('password')); v.save()\n"
    )
    for attempt in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(alice.path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"go\n"
            time.sleep(0.003 * attempt)
            writer.send_signal(signal.SIGKILL)
        assert Vault.open(path, alice.identities).names() == sorted(SPECS)
    survivor = Vault.open(path, alice.identities)  # and the dead writers' lock does not keep us out
    survivor.renew("redis.password", SPECS["redis.password"])
    survivor.save()


def test_the_age_command_line_format_is_the_common_one(vault: Vault, path: Path, alice: Operator) -> None:
    vault.put("a", Secret("hunter2hunter2"))
    vault.save()
    plain = pyrage.decrypt(path.read_bytes(), [pyrage.ssh.Identity.from_buffer(alice.path.read_bytes())])
    document = json.loads(plain)
    assert document["version"] == 2
    assert document["secrets"]["a"]["value"]["secret"] == "hunter2hunter2"
