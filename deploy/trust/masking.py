"""The last line of defence: what is about to be shown, logged or diffed goes through a Masker."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

from deploy.trust.secret import MASK, Secret

MINIMUM = 6
"""Characters. Anything shorter would blank out ordinary words and tell more than it hides."""

_LINE_MINIMUM = 16  # a line of a multi-line secret (a key in PEM) is masked on its own from this length


class Masker:
    """Replaces every occurrence of the given secrets in a text by ``********``.

    Known forms of a value: as it is, base64 (plain and URL alphabet, alone or inside a longer encoded text
    such as ``user:password``), SHA-256 in hex (Redis ACLs, file digests), MariaDB's native password hash, and
    the escaped forms of JSON, URLs, HTML and Python's repr. Values under 6 characters are not masked. Texts
    must come in whole lines: a value cut in two by a chunk border is not recognised.
    """

    def __init__(self, values: Iterable[Secret | str] = ()) -> None:
        forms: set[str] = set()
        for value in values:
            plain = value.reveal() if isinstance(value, Secret) else value
            if len(plain) >= MINIMUM:
                forms.update(form for form in _forms(plain) if len(form) >= MINIMUM and form not in MASK)
        # Occurrences may overlap (one secret's end is another's beginning), hence the lookahead: it reports a
        # match at every position, and the spans are merged below.
        self._pattern = re.compile(f"(?=({_trie_pattern(forms)}))", re.DOTALL) if forms else None

    def __call__(self, text: str) -> str:
        """``text`` with every known form of every secret replaced."""
        if self._pattern is None:
            return text
        pieces: list[str] = []
        position = 0
        for start, end in self._spans(text):
            pieces += (text[position:start], MASK)
            position = end
        pieces.append(text[position:])
        return "".join(pieces)

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Non-overlapping, ascending spans to hide."""
        assert self._pattern is not None
        current: tuple[int, int] | None = None
        for match in self._pattern.finditer(text):
            start, end = match.span(1)
            if current is None:
                current = (start, end)
            elif start < current[1]:
                current = (current[0], max(current[1], end))
            else:
                yield current
                current = (start, end)
        if current is not None:
            yield current

    def tree(self, data: Any) -> Any:
        """A copy of nested mappings, lists and tuples with all strings masked and each Secret as the mask."""
        if isinstance(data, str):
            return self(data)
        if isinstance(data, Secret):
            return MASK
        if isinstance(data, Mapping):
            return {self.tree(key): self.tree(value) for key, value in data.items()}
        if isinstance(data, list | tuple | set | frozenset):
            return [self.tree(item) for item in data]
        return data


class MaskingFilter(logging.Filter):
    """Masks a log record's message, arguments and traceback. Attach it to handlers: a logger's own filters do
    not see what its children pass up."""

    def __init__(self, masker: Masker) -> None:
        super().__init__()
        self._masker = masker

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = self._masker(record.getMessage())
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._masker(record.exc_text)
        if record.stack_info:
            record.stack_info = self._masker(record.stack_info)
        return True


def _forms(value: str) -> Iterator[str]:
    raw = value.encode("utf-8", errors="surrogatepass")
    yield value
    if len(value.splitlines()) > 1:
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= _LINE_MINIMUM)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield escape(value)
    yield quote(raw, safe="")
    yield quote(raw)
    yield quote_plus(raw)
    yield from _base64_forms(raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    yield sha256
    yield sha256.upper()
    # mysql_native_password, as SHOW CREATE USER prints it
    once = hashlib.sha1(raw, usedforsecurity=False).digest()
    yield hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def _base64_forms(raw: bytes) -> Iterator[str]:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        yield encode(raw).decode().rstrip("=")
        for offset in range(3):
            # Inside a longer text the value starts at any of three offsets in a group of three bytes; kept
            # are the characters that depend on the value alone.
            text = encode(b"\0" * offset + raw).decode()
            first = (0, 2, 3)[offset]
            last = (offset + len(raw)) * 8 // 6
            yield text[first:last]


def _trie_pattern(words: Iterable[str]) -> str:
    """A regular expression for the longest of ``words`` at a position, branching on one character at a time.

    A flat alternation of a hundred secrets' forms would try a thousand branches at each position of the text.
    """
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _node_pattern(root)


def _node_pattern(node: dict[str, Any]) -> str:
    prefix = ""
    while len(node) == 1 and "" not in node:  # a run without branches: no recursion for the length of a word
        character, node = next(iter(node.items()))
        prefix += re.escape(character)
    branches = [re.escape(key) + _node_pattern(child) for key, child in sorted(node.items()) if key]
    if not branches:
        return prefix
    body = f"(?:{'|'.join(branches)})"
    return f"{prefix}{body}?" if "" in node else prefix + body
