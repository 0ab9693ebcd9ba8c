"""Who can open what: added, removed, sealed anew; and what is stored, edited and shown, on a real inventory's files."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from pyinfra_cli import util

from deploy.errors import FleetError
from deploy.procedures.initialise import initialise
from deploy.procedures.secrets import operators, status, store
from deploy.trust.authority import Authority
from deploy.trust.identities import load_identities
from deploy.trust.vault import Vault
from tests.unit.trust.keys import Operator, ssh_key

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Operator]:
    folder = tmp_path_factory.mktemp("people")
    return {name: ssh_key(folder / name, "-t", "ed25519", "-C", name) for name in ("ana", "bob", "eve")}


@pytest.fixture
def inventory(tmp_path: Path, people: dict[str, Operator], monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that names no operators: who made it can open it."""
    monkeypatch.setenv("FLEET_IDENTITY", str(people["ana"].path))
    folder = tmp_path / "single"
    shutil.copytree(
        ROOT / "inventories/single", folder, ignore=shutil.ignore_patterns("secrets.*", "pki", "identity", ".*")
    )
    (folder / "group_data/all.py").rename(folder / "all.py")
    settings(folder, "")
    initialise(folder)
    return folder


def settings(folder: Path, more: str) -> None:
    # Else what it compiled first would be read again.
    util.PYTHON_CODES.clear()
    text = (folder / "all.py").read_text()
    (folder / "group_data/all.py").write_text(f"{text}\ntrust = {{'authority_bits': 2048}}\n{more}\n")


def opens(folder: Path, operator: Operator) -> bool:
    """The vault and the CA's key; never one of the two alone."""
    identities = load_identities(operator.path)
    found = []
    for work in (
        lambda: Vault.open(folder / "secrets.age", identities),
        lambda: Authority.load(folder / "pki").unlock(identities),
    ):
        try:
            work()
        except FleetError:
            found.append(False)
        else:
            found.append(True)
    assert found[0] == found[1], found
    return found[0]


def vault(folder: Path, operator: Operator) -> Vault:
    return Vault.open(folder / "secrets.age", operator.identities)


# -- who ---------------------------------------------------------------------------------------------------------


def test_one_more_operator_opens_everything(inventory: Path, people: dict[str, Operator]) -> None:
    assert not opens(inventory, people["bob"])
    found = operators.add(inventory, people["bob"].public)
    assert found.files == ("secrets.age", "pki/ca.key.age")
    assert opens(inventory, people["bob"])
    assert opens(inventory, people["ana"])
    assert initialise(inventory).secrets == ()
    store.put(inventory, "monitoring/mail", "given by the relay")
    assert opens(inventory, people["bob"]), "a later save keeps them"


def test_one_less_is_noted_down_and_opens_nothing_any_more(inventory: Path, people: dict[str, Operator]) -> None:
    operators.add(inventory, people["bob"].public)
    found, label = operators.remove(inventory, "bob")
    assert label == "bob"
    assert len(found.operators) == 1
    assert not opens(inventory, people["bob"])
    report = status.status(inventory)
    assert {one.known_to for one in report.secrets} == {("bob",)}
    assert [who for _, who in report.authorities] == [("bob",)]
    assert report.code == 2
    with pytest.raises(FleetError, match="nobody of that name"):
        operators.remove(inventory, "bob")
    assert len(vault(inventory, people["ana"]).removed) == 1


def test_a_removal_that_died_is_finished_by_another(inventory: Path, people: dict[str, Operator]) -> None:
    operators.add(inventory, people["bob"].public)
    with mock.patch.object(Authority, "rekey", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        operators.remove(inventory, "bob")
    operators.remove(inventory, "bob")
    assert not opens(inventory, people["bob"])
    assert len(vault(inventory, people["ana"]).removed) == 1, "noted down once"


def test_nobody_locks_themselves_out(inventory: Path, people: dict[str, Operator]) -> None:
    with pytest.raises(FleetError, match="you among them"):
        operators.remove(inventory, people["ana"].public)
    operators.add(inventory, people["bob"].public)
    with pytest.raises(FleetError, match="you among them"):
        operators.remove(inventory, people["ana"].public)
    assert opens(inventory, people["ana"])


def test_an_inventory_that_names_its_operators_names_them_first(inventory: Path, people: dict[str, Operator]) -> None:
    named = [people["ana"].public]
    settings(inventory, f"base = {{'operators': {named!r}}}")
    with pytest.raises(FleetError, match="write the key into group_data first"):
        operators.add(inventory, people["bob"].public)
    settings(inventory, f"base = {{'operators': {[*named, people['bob'].public]!r}}}")
    operators.add(inventory, people["bob"].public)
    assert opens(inventory, people["bob"])
    with pytest.raises(FleetError, match="take the key out of group_data"):
        operators.remove(inventory, "bob")
    settings(inventory, f"base = {{'operators': {named!r}}}")
    operators.remove(inventory, "bob")
    assert not opens(inventory, people["bob"])


def test_rekey_seals_to_whom_the_inventory_names(inventory: Path, people: dict[str, Operator]) -> None:
    before = (inventory / "secrets.age").read_bytes()
    operators.rekey(inventory)
    assert (inventory / "secrets.age").read_bytes() != before
    settings(inventory, f"base = {{'operators': {[people['ana'].public, people['eve'].public]!r}}}")
    operators.rekey(inventory)
    assert opens(inventory, people["eve"])
    settings(inventory, f"base = {{'operators': {[people['bob'].public]!r}}}")
    with pytest.raises(FleetError, match="you among them"):
        operators.rekey(inventory)


@pytest.mark.parametrize(("key", "words"), [("", "no recipients"), ("not a key", "SSH public key"), ("two", "2 keys")])
def test_what_is_no_key(inventory: Path, people: dict[str, Operator], key: str, words: str) -> None:
    text = f"{people['bob'].public}\n{people['eve'].public}\n" if key == "two" else key
    with pytest.raises(FleetError, match=words):
        operators.add(inventory, text)


# -- stored and edited -------------------------------------------------------------------------------------------


def editor(tmp_path: Path, body: str) -> str:
    """An editor that is a Python program; `text` is what it was given, and it leaves what it says."""
    program = tmp_path / "editor.py"
    program.write_text(
        f"import sys, os\npath = sys.argv[1]\ntext = open(path).read()\n{body}\nopen(path, 'w').write(text)\n"
    )
    return f"{sys.executable} {program}"


def left_behind() -> list[Path]:
    return list(Path(store.MEMORY).glob(f"{store.PREFIX}{os.getpid()}-*"))


def test_what_is_edited_is_stored_and_nothing_stays(
    inventory: Path, people: dict[str, Operator], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    body = (
        "import json, stat\n"
        f"json.dump([path, os.stat(path).st_mode, os.stat(os.path.dirname(path)).st_mode], open({str(seen)!r}, 'w'))\n"
        "text = text.replace([line for line in text.splitlines() if line.startswith('monitoring/mail')][0], "
        "'monitoring/mail = from the relay')"
    )
    said = store.edit(inventory, [], editor=editor(tmp_path, body))
    assert "from the relay" not in said
    assert vault(inventory, people["ana"]).get("monitoring/mail").reveal() == "from the relay"
    path, mode, folder_mode = json.loads(seen.read_text())
    assert path.startswith("/dev/shm/")
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(folder_mode) == 0o700
    assert not Path(path).parent.exists()
    assert left_behind() == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "nothing changed"),
        ("text += 'monitoring/other = x\\n'", "no `NAME = VALUE`"),
        ("text += 'monitoring/mail = x\\n'", "for the second time"),
        ("text = text.replace('monitoring/mail =', '# ')", "no line any more for monitoring/mail"),
        ("text = text.replace('monitoring/mail = ', 'monitoring/mail =\\n')", "line "),
        ("sys.exit(3)", "ended with 3"),
    ],
)
def test_what_cannot_be_stored_is_not(
    inventory: Path, people: dict[str, Operator], tmp_path: Path, body: str, words: str
) -> None:
    before = (inventory / "secrets.age").read_bytes()
    with pytest.raises(FleetError, match=words) as caught:
        store.edit(inventory, ["monitoring/mail"], editor=editor(tmp_path, body))
    assert vault(inventory, people["ana"]).get("monitoring/mail").reveal() not in caught.value.message()
    assert (inventory / "secrets.age").read_bytes() == before
    assert left_behind() == []


def test_what_a_killed_editor_left_goes_with_the_next(inventory: Path, tmp_path: Path) -> None:
    dead = Path(store.MEMORY) / f"{store.PREFIX}4194999-x"
    alive = Path(store.MEMORY) / f"{store.PREFIX}{os.getppid()}-x"
    for one in (dead, alive):
        one.mkdir(exist_ok=True)
    try:
        with store.private("x"):
            assert not dead.exists()
            assert alive.exists()
    finally:
        alive.rmdir()


def test_no_memory_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MEMORY", "/nowhere")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(FleetError, match="no file system in memory"), store.private("x"):
        pass


def test_a_password_of_the_fleets_own_servers_waits(inventory: Path, people: dict[str, Operator]) -> None:
    name = "redis/app"
    before = vault(inventory, people["ana"]).get(name)
    said = store.put(inventory, name, "aPasswordOfMyOwn42")
    assert "fleet secrets rotate" in said
    now = vault(inventory, people["ana"])
    assert now.get(name) == before
    assert [one.value for one in now.accepted(name)] == [before.reveal(), "aPasswordOfMyOwn42"]
    for value in ("short", "with a space in it", "x" * 40, "1digitfirst12345678", ""):
        with pytest.raises(FleetError):
            store.put(inventory, name, value)
    with pytest.raises(FleetError, match="another secret"):
        store.put(inventory, "rabbitmq/cookie", "x" * 32)
    with pytest.raises(FleetError, match="no role knows"):
        store.put(inventory, "none", "x")


# -- shown -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(inventory: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "fleet"), "secrets", words[0], str(inventory), *words[1:]], cwd=ROOT, text=True, input=stdin,
            capture_output=True, check=False,
        )  # fmt: skip

    return run


def test_a_secret_is_shown_where_that_was_wanted(
    fleet: Callable[..., subprocess.CompletedProcess[str]], inventory: Path, people: dict[str, Operator]
) -> None:
    value = vault(inventory, people["ana"]).get("redis/app").reveal()
    done = fleet("show", "redis/app")
    assert done.returncode == 1
    assert value not in done.stdout + done.stderr
    assert "--force" in done.stderr
    assert fleet("show", "redis/app", "--force").stdout == f"{value}\n"
    assert json.loads(fleet("show", "redis/app", "--json").stdout)["value"] == value
    done = fleet("show", "redis/none", "--force")
    assert (done.returncode, done.stdout) == (1, "")


def test_status_names_everything_and_no_value(
    fleet: Callable[..., subprocess.CompletedProcess[str]], inventory: Path, people: dict[str, Operator]
) -> None:
    texts = [fleet("status"), fleet("status", "--json")]
    opened = vault(inventory, people["ana"])
    assert [done.returncode for done in texts] == [0, 0]
    report = json.loads(texts[1].stdout)
    assert {one["name"] for one in report["secrets"]} == set(opened.names())
    assert not any(value.reveal() in done.stdout + done.stderr for done in texts for value in opened.values())
    assert fleet("set", "redis/app", stdin="anotherPassword42\n").returncode == 0
    done = fleet("status", "--json")
    assert done.returncode == 2
    assert {one["name"]: one["phase"] for one in json.loads(done.stdout)["secrets"] if one["phase"]} == {
        "redis/app": "accept"
    }


def test_whoever_opens_secrets_leaves_no_core(people: dict[str, Operator]) -> None:
    load_identities(people["ana"].path)
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
