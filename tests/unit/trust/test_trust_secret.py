"""A secret never shows itself, whatever is done to print it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from dataclasses import asdict, dataclass
from string import Template

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from deploy.errors import FleetError
from deploy.model.secrets import SecretKind, SecretSpec
from deploy.trust.secret import MASK, Secret, generate

values = st.text(min_size=1).filter(lambda text: text not in MASK)
specs = st.text(alphabet="<>^+-=,_.# 0123456789sdxr%!", max_size=8)


@dataclass(frozen=True)
class Holder:
    name: str
    secret: Secret


@given(values, specs)
def test_no_format_of_any_kind_shows_it(value: str, spec: str) -> None:
    secret = Secret(value)
    outputs = {
        str(secret),
        repr(secret),
        ascii(secret),
        format(secret, spec),
        f"{secret}",
        f"{secret!r}",
        f"{secret!s:.2}"[:2] + MASK[2:],
        "%s" % secret,  # noqa: UP031
        "%r" % secret,  # noqa: UP031
        "{:>40}".format(secret),  # noqa: UP032
        Template("$s").substitute(s=secret),
        pretty_repr(secret),
    }
    assert outputs == {MASK}


@given(st.text(min_size=12, alphabet=st.characters(exclude_characters="*")))
def test_nothing_that_holds_it_shows_it(value: str) -> None:
    value = f"<{value}>"  # so that it is not found in the class's own name
    holder = Holder("redis", Secret(value))
    for text in (
        repr(holder),
        str([holder]),
        str(asdict(holder)),
        str({"k": holder.secret}),
        pretty_repr(holder),
    ):
        assert value not in text
        assert MASK in text


def test_logging_and_exceptions_do_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hunter2hunter2")
    logging.getLogger().warning("password is %s and %r", secret, {"p": secret})
    try:
        raise ValueError("bad", secret)
    except ValueError:
        logging.getLogger().exception("failed")
    assert "hunter2" not in caplog.text
    assert MASK in caplog.text


@pytest.mark.parametrize(
    "leak",
    [
        json.dumps,
        pickle.dumps,
        lambda s: pickle.dumps({"nested": [s]}),
        lambda s: pickle.dumps(Holder("redis", s)),
        lambda s: s.__getstate__(),
        lambda s: "".join([s]),
        lambda s: "password=" + s,
        lambda s: bytes(s),
        lambda s: len(s),
        lambda s: list(s),
        lambda s: s[0],
        lambda s: "h" in s,
        lambda s: vars(s),
        lambda s: setattr(s, "_Secret__value", "x"),
        lambda s: delattr(s, "_Secret__value"),
        lambda s: s.encode(),
    ],
)
def test_what_would_take_it_for_a_string_fails_without_showing_it(leak: object) -> None:
    assert callable(leak)
    with pytest.raises((TypeError, AttributeError)) as caught:
        leak(Secret("hunter2hunter2"))
    assert "hunter2" not in str(caught.value)


def test_pytest_would_not_show_it_either() -> None:
    one, other = Secret("hunter2hunter2"), Secret("another-value")
    with pytest.raises(AssertionError) as caught:
        assert one == other
    assert "hunter2" not in str(caught.value)


@given(values, values)
def test_equality_and_hash_follow_the_value(one: str, other: str) -> None:
    assert Secret(one) == Secret(one)
    assert hash(Secret(one)) == hash(Secret(one))
    assert (Secret(one) == Secret(other)) is (one == other)
    assert Secret(one) != one
    assert Secret(one).reveal() == one


def test_copies_are_the_same_object() -> None:
    secret = Secret("hunter2hunter2")
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"s": secret})["s"] is secret


@pytest.mark.parametrize("value", ["", None, b"bytes", 7])
def test_only_text_that_is_not_empty_can_be_one(value: object) -> None:
    with pytest.raises(TypeError):
        Secret(value)  # type: ignore[arg-type]


@given(st.sampled_from(["password", "token", "cookie", "hex"]), st.integers(32, 200))
def test_generated_values_need_no_quoting_anywhere(kind: SecretKind, length: int) -> None:
    value = generate(SecretSpec(kind, "test", length)).reveal()
    assert len(value) == length
    assert value.isascii()
    assert value.isalnum()
    if kind == "hex":
        assert set(value) <= set("0123456789abcdef")
    else:
        assert value[0].isalpha()


def test_generated_values_differ_and_are_32_long_unless_told() -> None:
    made = {generate(SecretSpec("password")) for _ in range(200)}
    assert len(made) == 200
    assert all(len(secret.reveal()) == 32 for secret in made)


def test_a_short_one_is_refused() -> None:
    with pytest.raises(FleetError, match="found length 31, expected at least 32 characters"):
        SecretSpec("password", "redis", 31)
