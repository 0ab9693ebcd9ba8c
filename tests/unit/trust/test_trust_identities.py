"""Finding the operator's key, and one clear message for each way in which that fails."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.errors import FleetError
from deploy.trust.identities import load_identities
from deploy.trust.recipients import parse_recipients, read_sidecar, write_sidecar
from tests.unit.trust.keys import Operator, ssh_key


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def install(operator: Operator, path: Path) -> Path:
    shutil.copy(operator.path, path)
    path.chmod(0o600)
    return path


def test_the_public_half_is_the_one_ssh_keygen_wrote(alice: Operator, bob: Operator, carol: Operator) -> None:
    for operator in (alice, bob, carol):
        (identity,) = operator.identities
        assert identity.recipient == " ".join(operator.public.split()[:2])


def test_option_beats_environment_beats_default(home: Path, alice: Operator, bob: Operator, carol: Operator) -> None:
    install(alice, home / ".ssh" / "id_ed25519")
    environ = {"FLEET_IDENTITY": str(bob.path)}
    assert load_identities(carol.path, environ=environ, home=home)[0].path == carol.path
    assert load_identities(environ=environ, home=home)[0].path == bob.path
    assert load_identities(environ={}, home=home)[0].path == home / ".ssh" / "id_ed25519"
    assert load_identities(environ={"FLEET_IDENTITY": ""}, home=home)[0].path == home / ".ssh" / "id_ed25519"


def test_both_default_keys_are_tried(home: Path, alice: Operator, bob: Operator, locked_key: Operator) -> None:
    install(bob, home / ".ssh" / "id_rsa")
    install(alice, home / ".ssh" / "id_ed25519")
    assert [i.path.name for i in load_identities(environ={}, home=home)] == ["id_ed25519", "id_rsa"]
    install(locked_key, home / ".ssh" / "id_ed25519")  # unusable, but the other one may do
    assert [i.path.name for i in load_identities(environ={}, home=home)] == ["id_rsa"]


def test_a_repr_never_shows_the_key(carol: Operator) -> None:
    assert "AGE-SECRET-KEY" not in repr(carol.identities)


@pytest.mark.parametrize(
    "options", [("-t", "ed25519"), ("-t", "rsa", "-b", "2048"), ("-t", "rsa", "-b", "2048", "-m", "PEM")]
)
def test_a_passphrase_is_asked_for_when_somebody_can_answer(tmp_path: Path, options: tuple[str, ...]) -> None:
    operator = ssh_key(tmp_path / "key", *options, passphrase="correct horse")
    asked: list[Path] = []

    def answer(path: Path) -> str:
        asked.append(path)
        return "correct horse"

    (identity,) = load_identities(operator.path, passphrase=answer)
    assert identity.recipient == " ".join(operator.public.split()[:2])
    assert asked == [operator.path]
    with pytest.raises(FleetError, match="a passphrase that does not open the key"):
        load_identities(operator.path, passphrase=lambda _: "wrong")


Case = tuple[Callable[[Path], Path], str, str]


def _world_readable(path: Path) -> Path:
    operator = ssh_key(path / "open", "-t", "ed25519")
    operator.path.chmod(0o640)
    return operator.path


def _public(path: Path) -> Path:
    operator = ssh_key(path / "pair", "-t", "ed25519")
    public = operator.path.with_name("pair.pub")
    public.chmod(0o600)
    return public


def _ecdsa(path: Path) -> Path:
    return ssh_key(path / "ecdsa", "-t", "ecdsa").path


def _text(content: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        target = path / "file"
        target.write_text(content)
        target.chmod(0o600)
        return target

    return write


def _truncated(path: Path) -> Path:
    key = ssh_key(path / "cut", "-t", "ed25519").path
    key.write_bytes(key.read_bytes()[:150])
    return key


CASES: list[Case] = [
    (lambda path: path / "absent", "found no such file", "Check --identity or FLEET_IDENTITY."),
    (lambda path: path, "not a regular file|cannot read: Is a directory", "Give the path of"),
    (_world_readable, "found mode 0640, open to group or others", "chmod 600"),
    (_public, "found a public key", "without .pub"),
    (_ecdsa, "not usable", "ssh-keygen -t ed25519"),
    (_text(""), "not usable", "ssh-keygen -t ed25519"),
    (_text("hello"), "not usable", "ssh-keygen -t ed25519"),
    (_truncated, "not usable|passphrase", ""),
    (_text("AGE-SECRET-KEY-1XXXX"), "line 1 is not an age identity", "Restore the file"),
    (
        lambda path: ssh_key(path / "protected", "-t", "ed25519", passphrase="correct horse").path,
        "a passphrase-protected key, and nobody to ask",
        "ssh-agent cannot decrypt age files",
    ),
    (
        lambda path: ssh_key(path / "pem", "-t", "rsa", "-b", "2048", "-m", "PEM", passphrase="correct horse").path,
        "a passphrase-protected key, and nobody to ask",
        "ssh-agent cannot decrypt age files",
    ),
]


@pytest.mark.parametrize(("make", "found", "hint"), CASES)
def test_each_failure_has_one_clear_message(
    tmp_path: Path, make: Callable[[Path], Path], found: str, hint: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(FleetError, match=found) as caught:
        load_identities(path)
    message = caught.value.message()
    assert message.startswith(f"{path}: found ")
    assert hint in message
    assert "\n" not in message


def test_no_key_at_all(home: Path) -> None:
    with pytest.raises(FleetError, match=r"none of .*id_ed25519, .*id_rsa.*Pass --identity PATH or set FLEET_IDENTITY"):
        load_identities(environ={}, home=home)


def test_the_only_default_key_is_unusable(home: Path, locked_key: Operator) -> None:
    install(locked_key, home / ".ssh" / "id_ed25519")
    with pytest.raises(FleetError, match="passphrase-protected"):
        load_identities(environ={}, home=home)


def test_recipients_are_parsed_once_each_with_their_comment(alice: Operator, bob: Operator, carol: Operator) -> None:
    lines = ["# operators", "", alice.public, f"  {bob.public}", carol.public, alice.public]
    parsed = parse_recipients(lines, "inventory")
    assert [r.comment for r in parsed] == ["alice@example.org", "bob@example.org", ""]
    assert [r.line for r in parsed] == [alice.public, bob.public, carol.public]
    assert parsed[0].label.startswith("alice@example.org (ssh-ed25519 ...")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], "no recipients"),
        (["# nobody", " "], "no recipients"),
        (["ssh-ed25519 AAAA me"], "'ssh-ed25519 AAAA me': invalid public key"),
        (["ssh-ed25519"], "invalid public key"),
        (["age1notakey"], "'age1notakey'"),
        (["alice"], "'alice'"),
        (["sk-ssh-ed25519@openssh.com AAAA"], "hardware-backed"),
        (["ecdsa-sha2-nistp256 AAAA"], "ECDSA"),
        (["AGE-SECRET-KEY-1QQPQYQS"], "a private key \\(not repeated here\\)"),
        (["-----BEGIN OPENSSH PRIVATE KEY-----"], "a private key \\(not repeated here\\)"),
    ],
)
def test_bad_recipients(lines: list[str], found: str) -> None:
    with pytest.raises(FleetError, match=found) as caught:
        parse_recipients(lines, "settings.operators")
    assert caught.value.subject.startswith("settings.operators")
    assert "QQPQYQS" not in caught.value.message()


def test_an_rsa_key_of_1024_bits_is_no_recipient(tmp_path: Path) -> None:
    made = subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", str(tmp_path / "weak")], check=False
    )
    if made.returncode:
        pytest.skip("this ssh-keygen makes no 1024-bit keys")
    with pytest.raises(FleetError, match="RsaModulusTooSmall"):
        parse_recipients([(tmp_path / "weak.pub").read_text()], "inventory")


def test_the_sidecar_round_trips(tmp_path: Path, alice: Operator, carol: Operator) -> None:
    recipients = parse_recipients([alice.public, carol.public], "inventory")
    write_sidecar(tmp_path / "s.recipients", recipients)
    assert read_sidecar(tmp_path / "s.recipients") == recipients
