"""Certificates: the key is made on the host and stays there, the request comes back, the certificate goes out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyinfra.api import Host

from deploy.converge import remote, shell
from deploy.converge.profile import profile
from deploy.converge.step import Step
from deploy.errors import FleetError
from deploy.model.resources import Certificate, StepClass
from deploy.trust.certificates import describe

if TYPE_CHECKING:
    from deploy.converge.engine import Keys

_GENERATE = {
    "rsa2048": "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    "rsa3072": "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072",
    "rsa4096": "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096",
    "p256": "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
}


def issue(host: Host, organization: str, items: Sequence[Certificate], keys: Keys) -> None:
    """Make new keys on the host, sign their requests here, install each pair.

    A run that dies between the two renames leaves a pair that does not match; the next look sees that and issues
    again. Until then the service goes on with what it has loaded.

    Raises:
        FleetError: the CA's key cannot be opened, the host could not make the keys, or a request was not acceptable.
    """
    signer = keys.signer()
    wanted = requests(host, items)
    pems = {item.key: signer.sign(wanted[item.key], profile(item, organization), requester=host.name) for item in items}
    install(host, items, pems)


def install(host: Host, items: Sequence[Certificate], pems: Mapping[str, str]) -> None:
    """Put certificates (by the key of their resource) in their place, with the keys that requests() left for them.

    What is in its place already stays as it is.

    Raises:
        FleetError: a key that was made for a certificate is not there any more.
    """
    steps = []
    for item in items:
        pem = pems[item.key]
        key, new = shlex.quote(item.key_path), shlex.quote(_candidate(item))
        certificate, staged = shlex.quote(item.certificate_path), shlex.quote(f"{_candidate(item)}.crt")
        # Both are there before either takes its place: some read the pair anew for each connection.
        script = f"""\
public() {{ openssl pkey -in "$1" -pubout -outform DER 2>/dev/null </dev/null | sha256sum | cut -c1-64; }}
wanted={describe(pem).public_key_sha256}
if [ "$(public {new})" = "$wanted" ]; then move=yes
elif [ "$(public {key})" = "$wanted" ]; then move=''
else
  echo 'the key that this certificate was asked for with is not here: it was asked for again since, or never'
  exit 1
fi
put {staged} root root 0644 '' <<'CONTENT'
{shell.encode(pem)}
CONTENT
[ -z "$move" ] || sync {new}
{{ [ -z "$move" ] || mv -fT -- {new} {key}; }} && mv -fT -- {staged} {certificate}
sync {shlex.quote(item.directory)}"""
        steps.append(Step(host=host.name, resource=item, step=StepClass.WRITE, summary="install", script=script))
    reply = remote.run(host, shell.batch(steps))
    failure = shell.failure(reply.stdout)
    if failure:
        raise _error(host, failure.key, failure.words or "; ".join(reply.stderr[-3:]))


def _candidate(item: Certificate) -> str:
    return f"{item.directory}/.{item.name}.key.fleet-new"


def requests(host: Host, items: Sequence[Certificate]) -> dict[str, str]:
    """Make new keys on the host, beside those in use; resource key -> a request (PEM) for each.

    A key whose owner the host does not have yet is root's: the apply that makes the account gives it away.

    Raises:
        FleetError: the host could not make them.
    """
    steps = []
    for item in items:
        new = shlex.quote(_candidate(item))
        script = (
            "command -v openssl >/dev/null || { echo 'no openssl: apt-get install openssl'; exit 1; }\n"
            f"mkdir -p -- {shlex.quote(item.directory)}\n"
            f"umask 077\nrm -f -- {new}\nopenssl {_GENERATE[item.key_type]} -out {new} 2>/dev/null\n"
            f"chown {item.owner}:{item.group} {new} 2>/dev/null || chown root:root {new}\nchmod 0400 {new}\n"
            f"openssl req -new -sha256 -key {new} -subj '/CN=request'"
        )
        steps.append(Step(host=host.name, resource=item, step=StepClass.CREATE, summary="request", script=script))
    reply = remote.run(host, shell.batch(steps))
    failure = shell.failure(reply.stdout)
    if failure:
        raise _error(host, failure.key, failure.words or "; ".join(reply.stderr[-3:]))
    found: dict[str, list[str]] = {}
    key = ""
    for line in reply.stdout:
        if line.startswith("@@step "):
            key = line.removeprefix("@@step ")
        elif not line.startswith("@@"):
            found.setdefault(key, []).append(line)
    return {name: "\n".join(lines) + "\n" for name, lines in found.items()}


def _error(host: Host, key: str, words: str) -> FleetError:
    return FleetError(
        host=host.name,
        subject=key,
        found=words,
        expected="a new key and a request for it",
        hint="the pair that was there is untouched; mend the cause and run apply again",
    )
