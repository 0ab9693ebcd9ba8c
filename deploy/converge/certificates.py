"""What a host has of the PKI, and what its TLS ports serve and accept: scripts that only read, and their parsers.

The ports are asked on the host itself, at the address that others dial: nobody else is let through to all of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.converge import shell
from deploy.errors import FleetError
from deploy.model.catalog import SSL_DIR, Port, Service
from deploy.model.fleet import HostSpec
from deploy.roles.common import CA_FILE, CRL_FILE

SECONDS = 10
"""For one handshake."""

ASKER = "log-sender"
"""Every host has its pair: with it a port is asked whose own service is no client."""


_KEPT = "sed -n -e '/^-----BEGIN CERT/,/^-----END CERT/p' -e '/Verify return code/p' -e '/:error:/p'"
"""Of what s_client says: not the keys of its session."""


@dataclass(frozen=True)
class Have:
    """Certificates by their name below SSL_DIR (without .crt), the CA file and the revocation list, as PEM."""

    certificates: Mapping[str, str] = field(default_factory=dict)
    authority: str = ""
    revocations: str = ""


@dataclass(frozen=True)
class Served:
    """What a port showed: PEM, empty if nothing; `verdict`: `ok`, or the host's own OpenSSL's reason against it."""

    pem: str
    verdict: str


@dataclass(frozen=True)
class Canary:
    """A certificate with its key, made to be shown once: by it is seen what a port accepts."""

    name: str
    certificate: str = field(repr=False)
    key: str = field(repr=False)


def ports(host: HostSpec) -> list[tuple[Service, Port]]:
    """The TLS ports of a host, as the catalog and its settings have them."""
    return [(service, port) for service in host.services for port in service.ports if host.mutual(port)]


def _handshake(host: HostSpec, number: int, starttls: str) -> str:
    """s_client's words for a port of a host. starttls: how TLS is begun there (see Port)."""
    words = f"openssl s_client -connect {host.address}:{number} -servername {host.name} -CAfile {CA_FILE}"
    return f"{words} -starttls {starttls}" if starttls else words


def script(host: HostSpec, nonce: str, *, served: bool) -> str:
    """Shell that prints what lies on a host and, if asked for, what each of its ports serves."""
    parts = [
        "export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"for f in {SSL_DIR}/*.crt; do",
        '  [ -f "$f" ] || continue',
        f'  name=${{f##*/}}; echo \'@@{nonce} file \'"${{name%.crt}}"; cat -- "$f"; echo',
        "done",
        f"echo '@@{nonce} list'; cat {CRL_FILE} 2>/dev/null; echo",
    ]
    for service, port in ports(host) if served else ():
        pair = service.name if service.identity and service.identity.client else ASKER
        pair = f"-cert {SSL_DIR}/{pair}.crt -key {SSL_DIR}/{pair}.key"
        parts += [
            f"echo '@@{nonce} port {port.number}'",
            f"timeout {SECONDS} {_handshake(host, port.number, port.starttls)} -verify_hostname {host.name} {pair} "
            f"</dev/null 2>&1 | {_KEPT}; echo",
        ]
    parts.append(f"echo '@@{nonce} end'")
    body = "\n".join(parts)
    return f"look() {{\n{body}\n}}\nlook </dev/null\n"


def parse(host: str, output: Sequence[str], nonce: str) -> tuple[Have, dict[int, Served]]:
    """What the script printed.

    Raises:
        FleetError: the answer breaks off.
    """
    mark = f"@@{nonce} "
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in output:
        if line.startswith(mark):
            current = sections.setdefault(line.removeprefix(mark), [])
        else:
            current.append(line)
    if "end" not in sections:
        raise FleetError(
            host=host, subject="certificates",
            found=f"an answer that breaks off ({'; '.join(output[-2:]) or 'nothing'})",
            expected="the answer's end mark", hint="see that the host is reachable and that openssl is there",
        )  # fmt: skip
    texts = {name: "\n".join(lines).strip() for name, lines in sections.items()}
    found = {name.removeprefix("file "): text for name, text in texts.items() if name.startswith("file ")}
    served = {
        int(name.removeprefix("port ")): Served(_first_pem(text), _verdict(text))
        for name, text in texts.items()
        if name.startswith("port ")
    }
    return Have(found, found.pop("ca", ""), texts.get("list", "")), served


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def _first_pem(text: str) -> str:
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    return f"{text[begin:end]}{_END}\n" if begin >= 0 and end >= 0 else ""


def _verdict(text: str) -> str:
    """s_client's last word on the chain; it verifies whether or not it is told to go on regardless."""
    codes = [line.strip() for line in text.splitlines() if line.strip().startswith("Verify return code: ")]
    if codes and _BEGIN in text:
        code, _, words = codes[-1].removeprefix("Verify return code: ").partition(" ")
        return "ok" if code == "0" else words.strip("()")
    # OpenSSL's own form: thread:error:code:library:function:reason:file:line:...
    refused = [line.split(":")[5] for line in text.splitlines() if line.count(":") > 5 and ":error:" in line]
    return refused[0].strip() if refused else "no handshake"


def shows(host: HostSpec, numbers: Iterable[int], canaries: Iterable[Canary], nonce: str) -> str:
    """Shell that shows each canary to each of these ports, and prints who took it.

    By TLS 1.2: there the handshake itself ends with the server's answer; with 1.3 a refusal comes after it.
    """
    parts = [
        "export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "umask 077",
        "folder=$(mktemp -d /run/fleet-canary-XXXXXXXX) || exit 1",
        "trap 'rm -rf -- \"$folder\"' EXIT",
        # A host whose timeout ends the shell must not keep it either.
        "trap 'exit 1' INT TERM HUP",
    ]
    begun = {port.number: port.starttls for _, port in ports(host)}
    asked = [(number, _handshake(host, number, begun.get(number, ""))) for number in numbers]
    for canary in canaries:
        for end, text in (("crt", canary.certificate), ("key", canary.key)):
            parts.append(f"base64 -d >\"$folder/{end}\" <<'CONTENT'\n{shell.encode(text)}\nCONTENT")
        for number, handshake in asked:
            parts += [
                f'said=$(timeout {SECONDS} {handshake} -tls1_2 -cert "$folder/crt" -key "$folder/key" '
                "</dev/null 2>&1) && code=0 || code=$?",
                # Who is not there refuses nobody.
                "case $said in *'-----BEGIN CERTIFICATE-----'*) ;; *) code=absent ;; esac",
                f"echo '@@{nonce} '{shlex.quote(canary.name)} {number} $code",
            ]
    parts.append(f"echo '@@{nonce} end'")
    body = "\n".join(parts)
    return f"ask() {{\n{body}\n}}\nask </dev/null\n"


def parse_shown(host: str, output: Sequence[str], nonce: str) -> dict[tuple[str, int], bool | None]:
    """(canary, port) -> whether it was taken; None where nobody answered.

    Raises:
        FleetError: the answer breaks off.
    """
    mark = f"@@{nonce} "
    lines = [line.removeprefix(mark) for line in output if line.startswith(mark)]
    if not lines or lines[-1] != "end":
        raise FleetError(
            host=host, subject="canaries", found=f"an answer that breaks off ({'; '.join(output[-2:]) or 'nothing'})",
            expected="the answer's end mark", hint="see that the host is reachable and that openssl is there",
        )  # fmt: skip
    found: dict[tuple[str, int], bool | None] = {}
    for line in lines[:-1]:
        name, number, code = line.rsplit(" ", 2)
        found[name, int(number)] = None if code == "absent" else code == "0"
    return found
