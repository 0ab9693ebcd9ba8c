"""No form of a secret gets past the masker, and nothing else is touched."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.model.secrets import SecretSpec
from deploy.trust.masking import Masker, MaskingFilter
from deploy.trust.secret import MASK, Secret, generate

# Without '*': a value made of the mask's own character can be put together by masking something else.
plain = st.characters(exclude_characters="*", exclude_categories=["Cs"])
values = st.text(plain, min_size=6, max_size=40)
confusable = st.text("ab", min_size=6, max_size=12)  # few letters: values overlap and contain one another


@given(st.lists(values | confusable, min_size=1, max_size=8), st.data())
def test_no_value_and_no_encoded_form_survives(secrets: list[str], data: st.DataObject) -> None:
    def forms(value: str) -> list[str]:
        raw = value.encode()
        return [
            value,
            base64.b64encode(raw).decode(),
            base64.urlsafe_b64encode(raw).decode(),
            hashlib.sha256(raw).hexdigest(),
            hashlib.sha256(raw).hexdigest().upper(),
            json.dumps(value),
            repr(value),
            quote(raw, safe=""),
        ]

    pieces = [form for value in secrets for form in forms(value)]
    fillers = st.text(plain, max_size=10) | st.text("ab", max_size=10)
    text = "".join(piece + data.draw(fillers) for piece in data.draw(st.permutations(pieces)))
    masked = Masker(secrets)(text)
    for value in secrets:
        for form in forms(value)[:5]:
            assert form not in masked
        assert json.dumps(value)[1:-1] not in masked
        assert quote(value.encode(), safe="") not in masked


@given(st.text(max_size=200))
def test_a_text_without_secrets_is_left_alone(text: str) -> None:
    secret = generate(SecretSpec("password"))
    assert Masker([secret])(text) == text
    assert Masker([])(text) == text


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_value_inside_a_longer_base64_text_is_found(before: bytes, after: bytes) -> None:
    value = "qX7vTq0ZrM3nB8kLwYc2"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        masked = Masker([value])(encode(before + value.encode() + after).decode())
        assert MASK in masked
        # What is left of the value's own characters is at most the two that it shares with its neighbours.
        assert len(masked) - len(MASK) <= len(encode(before + b"xx" + after)) + 4


def test_the_whole_of_overlapping_values_goes() -> None:
    assert Masker(["abcdefgh", "efghijkl"])("<abcdefghijkl>") == f"<{MASK}>"
    assert Masker(["abcdef", "abcdefghij"])("<abcdefghij> <abcdefg>") == f"<{MASK}> <{MASK}g>"


def test_short_values_are_not_masked() -> None:
    assert Masker(["abcde", Secret("x")])("abcde x") == "abcde x"
    assert Masker(["abcdef"])("abcdef") == MASK


def test_a_mariadb_password_hash_is_masked() -> None:
    # SELECT PASSWORD('mypass12') in MariaDB: '*' and SHA1(SHA1(value)).
    digest = hashlib.sha1(hashlib.sha1(b"mypass12").digest()).hexdigest().upper()
    assert digest not in Masker(["mypass12"])(f"IDENTIFIED BY PASSWORD '*{digest}'")


def test_each_line_of_a_multi_line_secret_is_masked() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBgkqhkiG9w0B\nAQEFAASCBKgwggSkAgEAAoIB\n"
    masked = Masker([pem])("+  MIIEvgIBADANBgkqhkiG9w0B\n+  AQEFAASCBKgwggSkAgEAAoIB\n")
    assert masked == f"+  {MASK}\n+  {MASK}\n"


def test_nested_data_is_masked_keys_included() -> None:
    secret = Secret("qX7vTq0ZrM3n")
    tree = Masker([secret]).tree({"a qX7vTq0ZrM3n": ["x=qX7vTq0ZrM3n", secret, 7, None, ("qX7vTq0ZrM3n",)]})
    assert json.loads(json.dumps(tree)) == {f"a {MASK}": [f"x={MASK}", MASK, 7, None, [MASK]]}


def test_log_records_are_masked_with_arguments_and_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(MaskingFilter(Masker(["qX7vTq0ZrM3n"])))
    logger = logging.getLogger("masking-test")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        try:
            raise ValueError("login qX7vTq0ZrM3n refused")
        except ValueError:
            logger.exception("with %s", ["qX7vTq0ZrM3n"])
    finally:
        logger.removeHandler(handler)
    output = capsys.readouterr().err
    assert "ValueError: login ******** refused" in output
    assert "with ['********']" in output
    assert "qX7v" not in output


def test_a_hundred_secrets_cost_little() -> None:
    masker = Masker([generate(SecretSpec("password")) for _ in range(100)])
    text = "2024-01-01 00:00:00 grader[17]: run 1234 of problem sumas finished in 0.25 s\n" * 12_000  # ~ 1 MB
    start = time.perf_counter()
    assert masker(text) == text
    assert time.perf_counter() - start < 2.0  # about 0.15 s on a laptop; a flat alternation takes over ten
