"""A secret's states: whatever is done to it, what clients come with is taken before and after; kept as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.errors import FleetError
from deploy.trust.recipients import parse_recipients
from deploy.trust.rotation import Entry, Phase, Value
from deploy.trust.sealing import seal
from deploy.trust.secret import Secret
from deploy.trust.vault import Vault
from tests.unit.trust.keys import Operator

STEPS = st.lists(st.sampled_from(["begin", "proven", "back"]), max_size=12)


def moved(entry: Entry, step: str, number: int) -> Entry:
    match step:
        case "begin":
            return (
                entry if entry.phase else entry.begun(Secret(f"value-{number}"), f"2026-01-01T00:00:{number:02}+00:00")
            )
        case "proven":
            return entry.proven() if entry.phase else entry
    return entry.back()


@given(STEPS)
def test_clients_may_turn_before_servers_or_after(steps: list[str]) -> None:
    """Between two states each host is in either; in `use` a client may be as it was in the state before that."""
    entry = Entry(Value(Secret("value"), "2026-01-01T00:00:00+00:00"))
    earlier = entry
    for number, step in enumerate(steps, 1):
        after = moved(entry, step, number)
        assert after.used in after.accepted
        assert entry.used in after.accepted, (entry, step)
        if entry.phase is Phase.USE and step == "back":
            # It was not proven that all have turned.
            assert earlier.used in after.accepted
        if step != "begin":
            assert after.used in entry.accepted, (entry, step)
        assert len({one.turn % 2 for one in after.accepted}) == len(after.accepted), "accounts of the same name"
        earlier, entry = entry, after


@given(STEPS)
def test_it_always_comes_to_an_end(steps: list[str]) -> None:
    entry = Entry(Value(Secret("value"), "2026-01-01T00:00:00+00:00"))
    for number, step in enumerate(steps, 1):
        entry = moved(entry, step, number)
    target = entry.target or entry.value
    for _ in range(3):
        entry = entry.proven() if entry.phase else entry
    assert entry == Entry(target)
    assert entry.accepted == (target,)


def test_what_servers_take_is_in_one_order_until_it_is_less() -> None:
    """Another order would be another file, and a reload for nothing."""
    entry = Entry(Value(Secret("old"), "2026-01-01T00:00:00+00:00")).begun(Secret("new"), "2026-01-02T00:00:00+00:00")
    turned = entry.back()
    assert entry.accepted == entry.proven().accepted == entry.proven().back().accepted == turned.back().accepted
    assert turned.accepted == (entry.value,)


def test_half_a_change_is_none() -> None:
    value = Value(Secret("x"), "2026-01-01T00:00:00+00:00")
    with pytest.raises(ValueError, match="a phase without a target"):
        Entry(value, phase=Phase.USE)
    with pytest.raises(ValueError, match="under way"):
        Entry(value).begun(Secret("y"), "").begun(Secret("z"), "")


OPERATIONS = st.lists(
    st.sampled_from(["begin a", "begin b", "advance", "back", "put a", "remove ana", "save"]), max_size=10
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_what_is_saved_is_read_back_in_every_state(tmp_path: Path, alice: Operator, operations: list[str]) -> None:
    path = tmp_path / "secrets.age"
    for file in tmp_path.iterdir():
        file.unlink()
    vault = Vault.create(path, [alice.public])
    for name in ("a", "b"):
        vault.put(name, Secret(f"first-of-{name}"))
    for number, operation in enumerate(operations):
        word, _, what = operation.partition(" ")
        match word:
            case "begin" if what not in vault.changing():
                vault.begin(what, Secret(f"next-{number}-of-{what}"))
            case "advance":
                vault.advance()
            case "back":
                vault.turn_back()
            case "put":
                vault.put(what, Secret(f"put-{number}"))
            case "remove":
                vault.remove(what)
            case "save":
                vault.save()
                vault = Vault.open(path, alice.identities)
    vault.save()
    again = Vault.open(path, alice.identities)
    for name in ("a", "b"):
        assert again.entry(name) == vault.entry(name)
        assert again.accepted(name) == vault.accepted(name)
        assert again.known_to(name) == vault.known_to(name)
        assert again.get(name).reveal() in [one.value for one in again.accepted(name)]
    assert again.removed == vault.removed
    assert set(map(repr, again.values())) == {"********"}


def test_a_file_of_the_release_before_is_read_and_becomes_one_of_this(tmp_path: Path, alice: Operator) -> None:
    path = tmp_path / "secrets.age"
    Vault.create(path, [alice.public])
    old = {"version": 1, "secrets": {"redis/app": {"value": "as-it-was", "created": "2026-01-01T00:00:00+00:00"}}}
    path.write_bytes(seal(json.dumps(old).encode(), parse_recipients([alice.public], "x")))
    vault = Vault.open(path, alice.identities)
    assert vault.get("redis/app").reveal() == "as-it-was"
    assert [(one.value, one.turn) for one in vault.accepted("redis/app")] == [("as-it-was", 0)]
    vault.begin("redis/app", Secret("another"))
    vault.save()
    assert Vault.open(path, alice.identities).changing() == {"redis/app": Phase.ACCEPT}


def test_refusals_say_no_value(tmp_path: Path, alice: Operator) -> None:
    vault = Vault.create(tmp_path / "secrets.age", [alice.public])
    vault.put("a", Secret("the-value-itself"))
    for begin in ("the-value-itself", "another"):
        if begin == "another":
            vault.begin("a", Secret("on-its-way"))
        with pytest.raises(FleetError) as caught:
            vault.begin("a", Secret(begin))
        assert not any(value.reveal() in caught.value.message() for value in vault.values())
