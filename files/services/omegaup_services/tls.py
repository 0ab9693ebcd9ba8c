"""Mutual TLS: contexts made from files, the role of a peer, and a reload that proves the new pair before it
is used.

A certificate proves membership, not permission: the subject's OU (there may be several) is the peer's role,
and `httpd` decides by route which roles may call it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import ClientTls, Tls
from .schema import ConfigError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: with forward secrecy, and without block ciphers that are signed before they are encrypted."""


@dataclass(frozen=True)
class Pair:
    """What a client sees of us: the served certificate's serial (hex) and its end of life (Unix time)."""

    serial: str
    not_after: float


def server_context(tls: Tls) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or later, and nobody without a certificate under `tls.ca`. Raises
    ConfigError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, tls)


def client_context(tls: Tls) -> ssl.SSLContext:
    """A client's context that shows our certificate and verifies the server's chain and name. Raises
    ConfigError.
    """
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


def upstream_context(tls: ClientTls) -> ssl.SSLContext:
    """A client's context for a database or a broker, with a certificate of ours only if one is configured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.verify_hostname
    _load_ca(context, tls.ca)
    if (tls.certificate is None) != (tls.key is None):
        raise ConfigError("a client certificate needs its key, and a key its certificate")
    if tls.certificate is not None and tls.key is not None:
        _load_pair(context, tls.certificate, tls.key)
    if tls.crl is not None:
        _load_ca(context, tls.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def insists(tls: ClientTls) -> bool:
    """Whether a server that offers no TLS is to be left."""
    if tls.insist_file is None:
        return True
    try:
        return tls.insist_file.read_text(encoding="ascii").strip() not in {"preferred", "off"}
    except (OSError, UnicodeDecodeError):
        return True


def _filled(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_ca(context, tls.ca)
    _load_pair(context, tls.certificate, tls.key)
    if tls.crl is not None:
        _load_ca(context, tls.crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _load_ca(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{path}: cannot be loaded: {_reason(error)}") from None


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        try:
            path.open("rb").close()  # load_cert_chain does not say which of the two it could not read
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {_reason(error)}") from None
    try:
        # The empty password keeps OpenSSL from asking at a terminal for that of an encrypted key.
        context.load_cert_chain(str(certificate), str(key), password="")  # nosec B106
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{certificate} with {key}: not a usable pair: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    # An SSLError's own words ("KEY_VALUES_MISMATCH") are in `reason`; an OSError's in `strerror`.
    return str(getattr(error, "reason", None) or error.strerror or error)


def prove(tls: Tls) -> Pair:
    """Shake hands with ourselves in memory, as a client that trusts `tls.ca` would, and tell what it saw.

    Raises ConfigError for what loads but no client would accept: expired, not yet valid, not under our CA, or
    without the usage serverAuth.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(server, tls.certificate, tls.key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # which names we have is for our callers to check
    _load_ca(client, tls.ca)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server)
    try:
        for _ in range(4):  # flights
            done = [_step(client_side), _step(server_side)]
            if all(done):
                break
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{tls.certificate}: not acceptable under {tls.ca}: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise ConfigError(f"{tls.certificate}: handshake failed: {_reason(error)}") from None
    seen: Mapping[str, Any] = client_side.getpeercert() or {}
    return Pair(serial=str(seen["serialNumber"]), not_after=float(ssl.cert_time_to_seconds(str(seen["notAfter"]))))


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


class Material:
    """The contexts in force. `reload` replaces both or neither."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self.pair = prove(tls)
        self.server = server_context(tls)
        self.client = client_context(tls)

    def reload(self) -> None:
        """Read the files again. Raises ConfigError and changes nothing if they do not make a servable pair.

        The contexts are new ones, not the old ones with more loaded into them: roots can be added to a
        context but not taken away, and a new context knows none of the old session tickets, so that nobody
        resumes a session made under a root that is gone.
        """
        pair, server, client = prove(self._tls), server_context(self._tls), client_context(self._tls)
        self.pair, self.server, self.client = pair, server, client


def _subject(certificate: Mapping[str, Any] | None, attribute: str) -> list[str]:
    subject = (certificate or {}).get("subject", ())
    return [str(value) for names in subject for key, value in names if key == attribute]


def peer_roles(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Roles (subject OUs) of a verified peer, from `getpeercert()`. Empty when there is none."""
    return frozenset(_subject(certificate, "organizationalUnitName"))


def peer_name(certificate: Mapping[str, Any] | None) -> str:
    """Common name of a verified peer, for logs; "" if there is none."""
    return next(iter(_subject(certificate, "commonName")), "")
