"""One clear message, the same fields for machines."""

from __future__ import annotations

import json
import pickle

import pytest

from deploy.errors import FleetError


def test_the_message_names_host_subject_found_expected_and_what_to_do() -> None:
    error = FleetError(
        host="data1",
        subject="redis.cache.maxmemory",
        found=repr("8gb"),
        expected="at most 5.6gb (70 % of the host's 8 GiB)",
        hint="Lower it in group_data, or move the role.",
    )
    assert str(error) == error.message()
    assert error.message() == (
        "data1: redis.cache.maxmemory: found '8gb', expected at most 5.6gb (70 % of the host's 8 GiB). "
        "Lower it in group_data, or move the role."
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "x: found a, expected b."),
        ({"host": "h"}, "h: x: found a, expected b."),
        ({"found": "a.", "expected": "b.\n"}, "x: found a, expected b."),
        ({"found": "two\n  lines"}, "x: found two lines, expected b."),
        ({"hint": "Do it"}, "x: found a, expected b. Do it."),
        ({"hint": "Run `fleet plan`"}, "x: found a, expected b. Run `fleet plan`."),
        ({"hint": "Really?"}, "x: found a, expected b. Really?"),
    ],
)
def test_the_message_is_one_well_formed_line(fields: dict[str, str], message: str) -> None:
    assert FleetError(**{"subject": "x", "found": "a", "expected": "b", **fields}).message() == message


def test_machines_get_the_fields_and_the_message() -> None:
    error = FleetError(subject="x", found="a", expected="b")
    assert json.loads(json.dumps(error.to_dict())) == {
        "error": "FleetError",
        "host": None,
        "subject": "x",
        "found": "a",
        "expected": "b",
        "hint": "",
        "message": "x: found a, expected b.",
    }


def test_it_survives_a_process_border() -> None:
    restored = pickle.loads(pickle.dumps(FleetError(subject="x", found="a", expected="b", host="h")))
    assert isinstance(restored, FleetError)
    assert restored.message() == "h: x: found a, expected b."
