"""What an attacker sends: the same inputs against services off hosts (tests/unit) and on the lab's (tests/chaos).

Bytes alone; nothing here connects anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

HOST = b"judge"


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire; nothing is added but a Host."""
    return "\r\n".join([line, f"Host: {HOST.decode()}", *headers, "", ""]).encode("latin-1") + body


SMUGGLED = "/smuggled-7f3a"
"""A path that no test asks for but inside another request: whoever answers for it has read that body as a request."""
INNER = f"GET {SMUGGLED} HTTP/1.1\r\nHost: judge\r\n\r\n".encode()


def smuggling(method: str, path: str) -> dict[str, bytes]:
    """Requests that two servers could read as different ones (CWE-444), by name.

    Each has to be answered once at most (a refusal, or one answer for all of it), and SMUGGLED never.
    """
    line = f"{method} {path} HTTP/1.1"
    size = len(INNER)
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (size, INNER)
    chunked = "Transfer-Encoding: chunked"
    return {
        "both, CL counts": request(line, "Content-Length: 4", chunked, body=b"1\r\nZ\r\n0\r\n\r\n" + INNER),
        "both, TE counts": request(line, chunked, f"Content-Length: {size + 5}", body=b"0\r\n\r\n" + INNER),
        "two lengths": request(line, "Content-Length: 0", f"Content-Length: {size}", body=INNER),
        "a list of lengths": request(line, f"Content-Length: 0, {size}", body=INNER),
        "a length with a sign": request(line, f"Content-Length: +{size}", body=INNER),
        "a negative length": request(line, "Content-Length: -1", body=INNER),
        "a length in hexadecimal": request(line, f"Content-Length: 0x{size:x}", body=INNER),
        "a length with an underscore": request(line, "Content-Length: 1_0", body=INNER),
        "a length beyond 64 bits": request(line, f"Content-Length: {2**64 + size}", body=INNER),
        "a folded coding": request(line, "Transfer-Encoding:\r\n chunked", "Content-Length: 0", body=chunk),
        "a folded header": request(line, f"X-Fold: a\r\n Content-Length: {size}", "Connection: close", body=INNER),
        "a space before the colon": request(line, "Transfer-Encoding : chunked", "Content-Length: 0", body=chunk),
        "a coding that is none": request(line, "Transfer-Encoding: xchunked", f"Content-Length: {size}", body=INNER),
        "two codings": request(line, "Transfer-Encoding: chunked, identity", "Content-Length: 0", body=chunk),
        "a coding after a tab": request(line, "Transfer-Encoding:\x0bchunked", "Content-Length: 0", body=chunk),
        "a bare line feed": request(line, f"X: a\nContent-Length: {size}", "Content-Length: 0", body=INNER),
        "a bare carriage return": request(line, f"X: a\rContent-Length: {size}", "Content-Length: 0", body=INNER),
        "a NUL in a header": request(line, f"X: a\0Content-Length: {size}", "Content-Length: 0", body=INNER),
        "a chunk of a bad size": request(line, chunked, body=b"zz\r\n" + INNER),
        "a chunk of a negative size": request(line, chunked, body=b"-1\r\n" + INNER),
        "a chunk of a size with 0x": request(line, chunked, body=b"0x5\r\nhello\r\n0\r\n\r\n" + INNER),
        "a chunk beyond 64 bits": request(line, chunked, body=b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n" + INNER),
        "a chunk longer than it says": request(line, chunked, body=b"3\r\nhello\r\n0\r\n\r\n" + INNER),
        "a chunk's end is a line feed": request(line, chunked, body=b"5\nhello\n0\n\n" + INNER),
        "an old version, chunked": request(line.replace("1.1", "1.0"), chunked, "Connection: keep-alive", body=chunk),
    }


LENIENT = {"a chunk's end is a line feed"}
"""What nginx reads as two requests: a line feed ends a line for it. Nothing stands before it that reads otherwise."""

OVERSIZE = 1 << 20
"""Bytes of a header that nobody takes."""


def oversize_headers(path: str) -> dict[str, bytes]:
    """Requests that are refused for their size, by name: 400, 414, 431, 494, or the connection ends."""
    return {
        "one long header": request(f"GET {path} HTTP/1.1", "X-Long: " + "a" * OVERSIZE),
        "a long line": request(f"GET {path}?{'a' * OVERSIZE} HTTP/1.1"),
        "many headers": request(f"GET {path} HTTP/1.1", *(f"X-{number}: {'b' * 90}" for number in range(10_000))),
        "a long cookie": request(f"GET {path} HTTP/1.1", "Cookie: omegaup=" + "c" * OVERSIZE),
        "a long method": request("A" * OVERSIZE + f" {path} HTTP/1.1"),
        "a header without an end": b"GET " + path.encode() + b" HTTP/1.1\r\nX: " + b"d" * OVERSIZE,
    }


TRAVERSALS = (
    "/problem/../../../../etc/passwd/settings", "/problem/..%2f..%2f..%2fetc%2fpasswd/settings",
    "/problem/%2e%2e/%2e%2e/settings", "/problem/..%252f..%252fetc/settings", "/problem/..%c0%af..%c0%afetc/settings",
    "/problem/....//....//etc/settings", "/problem/..\\..\\etc/settings", "/problem/..%5c..%5cetc/settings",
    "/problem/%00/settings", "/problem/a%00b/settings", "/problem/.hidden/settings", "/problem/./settings",
    "/problem/a%0ab/settings", "/problem/a%0d%0aX:%201/settings", "/problem//etc/passwd/settings",
    "/problem/%ff%fe/settings", "/problem/a/statement/..", "/problem/a/statement/../../settings",
    "/problem/a/statement/%2e%2e%2fsettings", "/problem/a/statement/es%00", "/problem/a/statement/es.md",
    "/problem/a/statement/ES", "/problem/" + "a" * 65 + "/settings", "/problem/" + "%2e%2e%2f" * 200 + "settings",
    "//problem/sumas/settings/..%2f..", "/problem/sumas%2f..%2f..%2f..%2fetc/settings", "/problem/~root/settings",
    "/problem/\u0430/settings", "/problem/..;/settings", "/problem/file:%2f%2f%2fetc%2fpasswd/settings",
)  # fmt: skip
"""Paths that lead to no problem of the gitserver."""


def malformed_json() -> dict[str, bytes]:
    """Bodies that are no object of JSON, or one that no server should work at, by name: each is refused with 4xx."""
    return {
        "nothing": b"", "a word": b"null", "a list": b"[]", "a number": b"1", "a text": b'"a"',
        "half an object": b'{"a": ', "two objects": b"{}{}", "a comma too many": b'{"a": 1,}',
        "not UTF-8": b'{"a": "\xff\xfe"}', "a byte order mark": b"\xef\xbb\xbf{}", "NUL": b"\0" * 64,
        "deep lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "deep enough to be read, not to be written": b'{"a":' + b"[" * 400 + b"]" * 400 + b"}",
        "a number of many digits": b'{"submission_id": ' + b"9" * 6000 + b"}",
        "infinity": b'{"score": Infinity}', "not a number": b'{"score": NaN}', "a large exponent": b'{"score": 1e999}',
        "half a surrogate": b'{"problem": "\\ud800", "event": "\\ud800", "name": "\\udfff", "lease": "\\ud800"}',
        "single quotes": b"{'a': 1}", "a comment": b"/* */ {}",
        "a control character": b'{"a": "\x01"}', "UTF-16": '{"a": 1}'.encode("utf-16"),
    }  # fmt: skip


def noise(seed: int, count: int = 200, longest: int = 4096) -> Iterator[bytes]:
    """Bytes without sense, the same for the same seed: alone, and after what a client of each protocol begins with."""
    dice = random.Random(seed)
    for _ in range(count):
        yield dice.choice(BEGINNINGS) + dice.randbytes(dice.randrange(longest))


BEGINNINGS = (
    b"", b"", b"AMQP\0\0\x09\x01", b"AMQP\0\x01\0\x0a", b"AMQP\x03\x01\0\0", b"\x01\0\0\xff\xff\xff\xff",
    b"*1\r\n$4\r\nPING\r\n", b"*1048577\r\n", b"*2\r\n$536870912\r\n", b"*-2147483649\r\n", b"*3\r\n$-1\r\n",
    b"AUTH " + b"a" * 65536 + b"\r\n", b"$999999999999999999999\r\n", b"\xff\xff\xff\0", b"\x85\xa6\xff\x01",
    b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x03\xff\xff", b"\x80\x2e\x01\x00\x02", b"\x15\x03\x01\x00\x02\x02\x28", b"\0\0\0\0",
)  # fmt: skip
"""Of AMQP (0-9-1, 1.0, TLS's and a frame without a connection), Redis, MariaDB, HTTP/1 and 2, and TLS."""
