"""A CA made by openssl in a folder, with an empty revocation list: ca.crt, ca.crl, and pairs NAME.crt, NAME.key."""

from __future__ import annotations

import subprocess
from pathlib import Path

CONF = """\
[ca]
default_ca = d
[d]
database = index
crlnumber = number
default_md = sha256
default_crl_days = 9
"""


def authority(folder: Path, name: str = "Fleet CA", **usages: str) -> None:
    """usages: a pair's name -> its extended key usages, in OpenSSL's words. Their names: localhost, 127.0.0.1."""
    folder.mkdir(exist_ok=True)
    (folder / "index").touch()
    (folder / "number").write_text("01")
    (folder / "conf").write_text(CONF)
    _run(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", "9",
        "-subj", f"/CN={name}",
    )  # fmt: skip
    for pair, usage in usages.items():
        issued(folder, pair, usage)
    listed(folder)


def issued(folder: Path, pair: str, usage: str) -> None:
    (folder / "extensions").write_text(
        "subjectAltName = DNS:localhost,IP:127.0.0.1\nbasicConstraints = critical,CA:FALSE\n"
        f"extendedKeyUsage = {usage}\n"
    )
    _run(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{pair}.key", "-out", "request", "-subj",
        f"/OU={pair}/CN={pair}",
    )  # fmt: skip
    _run(
        folder, "x509", "-req", "-in", "request", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9",
        "-extfile", "extensions", "-out", f"{pair}.crt",
    )  # fmt: skip


def listed(folder: Path, *revoked: str) -> None:
    """Sign another list, with these pairs on it. One file a list as well, as Erlang looks for them: lists/HASH.r0."""
    for pair in revoked:
        _run(folder, "ca", "-config", "conf", "-keyfile", "ca.key", "-cert", "ca.crt", "-revoke", f"{pair}.crt")
    _run(folder, "ca", "-config", "conf", "-gencrl", "-keyfile", "ca.key", "-cert", "ca.crt", "-out", "ca.crl")
    lists = folder / "lists"
    lists.mkdir(exist_ok=True)
    named = _run(folder, "crl", "-in", "ca.crl", "-noout", "-hash").strip()
    (lists / f"{named}.r0").write_bytes((folder / "ca.crl").read_bytes())


def _run(folder: Path, *words: str) -> str:
    done = subprocess.run(["openssl", *words], cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
