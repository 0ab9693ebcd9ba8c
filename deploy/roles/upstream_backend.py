"""What the real judge's programs have in common: account, certificate bundle, JSON configuration, unit.

Source of keys and behaviour: quark v1.9.70 (common/context.go), gitserver v1.9.17 (cmd/omegaup-gitserver/config.go) and
the units of omegaup/puppet. No unit has an ExecReload: upstream's sends SIGHUP, which ends the program.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.model.fleet import Context
from deploy.model.profiles import OWNER, UPSTREAM
from deploy.model.resources import (
    Account,
    Certificate,
    Directory,
    File,
    Link,
    Package,
    Parameter,
    Phase,
    Query,
    Resource,
    StepClass,
    Unit,
)
from deploy.model.secrets import Change, SecretSpec
from deploy.model.ways import Way
from deploy.roles import gates, upstream_release
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.upstream_release import Release

STATE = "/var/lib/omegaup"
JAR = "/usr/share/java/libinteractive.jar"

ONE_VALUE = "the real programs compare with one value: until every host has the new one, they refuse one another"
ELSEWHERE = "it belongs to your account there: make another one there, and store it with fleet secrets set"

SECRETS: Mapping[str, SecretSpec] = {
    "upstream/grader": SecretSpec(
        "hex", "omegaUp: frontend and broadcaster (OMEGAUP_GRADER_SECRET)", 64, Change.AT_ONCE, ONE_VALUE
    ),
    "upstream/gitserver": SecretSpec(
        "hex", "omegaUp: the frontend at the gitserver, for anything", 64, Change.AT_ONCE, ONE_VALUE
    ),
    "upstream/salt": SecretSpec(
        "hex",
        "omegaUp: salt of old passwords (OMEGAUP_MD5_SALT)",
        64,
        Change.NEVER,
        "what was hashed with it (passwords of old accounts) would fit no more: such accounts would have to set "
        "another password, and nothing tells them",
    ),
    "upstream/experiments": SecretSpec(
        "hex",
        "omegaUp: experiments (OMEGAUP_EXPERIMENT_SECRET)",
        64,
        Change.AT_ONCE,
        "links that switch an experiment on, and were handed out before, no longer do",
    ),
    "upstream/course-clone": SecretSpec(
        "hex", "omegaUp: tokens to copy a course", 64, Change.AT_ONCE, "tokens that were handed out before fit no more"
    ),
    "upstream/gitserver-key": SecretSpec(
        "hex", "omegaUp: seed of the site's key at the gitserver (Ed25519)", 64, Change.AT_ONCE, ONE_VALUE
    ),
    "upstream/facebook": SecretSpec(
        "hex", "omegaUp: of your account at Facebook; one that is made fits none", change=Change.ISSUED, why=ELSEWHERE
    ),
    "upstream/google": SecretSpec(
        "hex", "omegaUp: of your account at Google; one that is made fits none", change=Change.ISSUED, why=ELSEWHERE
    ),
    "upstream/github": SecretSpec(
        "hex", "omegaUp: of your account at GitHub; one that is made fits none", change=Change.ISSUED, why=ELSEWHERE
    ),
    "upstream/recaptcha": SecretSpec(
        "hex", "omegaUp: of your account at reCAPTCHA; one that is made fits none", change=Change.ISSUED, why=ELSEWHERE
    ),
    "upstream/gitserver-grader": SecretSpec(
        "hex", "omegaUp: the grader at the gitserver, as omegaup:grader", 64, Change.AT_ONCE, ONE_VALUE
    ),
}


def gitserver_key(ctx: Context) -> tuple[str, str]:
    """(secret, public) of the pair by which the site could sign for the gitserver, in base64, as each side reads it.

    While there is a shared token the site signs nothing; but it does not start without the pair, and the gitserver's
    own default is a published one.
    """
    # Whatever the secret is: `fleet secrets set` takes any line.
    seed = hashlib.sha256(ctx.secret("upstream/gitserver-key").encode()).digest()
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return base64.b64encode(seed + public).decode(), base64.b64encode(public).decode()


def folder(service: str) -> str:
    return f"/etc/omegaup/{service}"


def etc(service: str, group: str = OWNER) -> Directory:
    return Directory(path=folder(service), group=group, mode=0o750)


def pair(service: str) -> tuple[str, str]:
    """(certificate, key) as the program finds them."""
    return f"{folder(service)}/certificate.pem", f"{folder(service)}/key.pem"


def bundle(ctx: Context, service: str, group: str) -> Iterator[Resource]:
    """A key pair in the two files that the real judge reads: the leaf with the CA behind it, and the key.

    One file is what is shown and what others are judged by: there is no other place for a CA.
    """
    own = certificate(ctx, service)
    home = folder(service)
    shown, key = pair(service)
    yield etc(service, group)
    yield own
    yield _bundled(ctx, own, home, group)
    yield Link(path=shown, target="current/certificate.pem")
    yield Link(path=key, target="current/key.pem")


def _bundled(ctx: Context, own: Certificate, home: str, group: str) -> Parameter:
    script = (
        f"if cat {own.certificate_path} {CA_FILE} 2>/dev/null | cmp -s - {home}/current/certificate.pem &&\n"
        f"  cmp -s {own.key_path} {home}/current/key.pem; then printf 'pair\\tas issued\\n'\n"
        "else printf 'pair\\tnone, or another\\n'; fi"
    )
    return Parameter(
        query=Query(f"bundle-{own.name}", script), name="pair", want="as issued", step=StepClass.WRITE,
        phase=Phase.FILES, label=f"certificate bundle: {own.name}", loads=(own.certificate_path, own.key_path, CA_FILE),
        act=ctx.render(
            "upstream/bundle.sh.j2", folder=home, leaf=own.certificate_path, key=own.key_path, ca=CA_FILE, group=group
        ),
    )  # fmt: skip


def account() -> Account:
    return Account(name=OWNER, home=STATE)


def directories(*names: str) -> Iterator[Directory]:
    """The state, for the programs alone. They also write into their working directory, which is its root."""
    yield Directory(path=STATE, owner=OWNER, group=OWNER)
    for name in names:
        yield Directory(path=f"{STATE}/{name}", owner=OWNER, group=OWNER, mode=0o750)


def java(ctx: Context) -> Iterator[Resource]:
    """Interactive problems need it; the grader does not start without the program `java` at all."""
    release = Release(
        "libinteractive", upstream_release.artifact(ctx, "libinteractive"), ("libinteractive.jar",),
        single="libinteractive.jar",
    )  # fmt: skip
    yield Package(name="default-jre-headless")
    yield from upstream_release.unpacked(ctx, release)
    yield upstream_release.switched(ctx, release)
    yield Directory(path="/usr/share/java")
    yield Link(path=JAR, target=f"{release.current}/libinteractive.jar")


def program(release: Release, name: str) -> Link:
    """The program where upstream's own archives would put it."""
    return Link(path=f"/usr/bin/{name}", target=f"{release.current}/usr/bin/{name}")


def config_file(service: str, config: Mapping[str, Any]) -> File:
    """Keys are in Go's spelling. Secret as a whole: nearly every one of them holds a password or token."""
    return File(
        path=f"{folder(service)}/config.json", content=json.dumps(config, indent=2, sort_keys=True) + "\n",
        group=OWNER, mode=0o640, secret=True,
    )  # fmt: skip


def unit(
    ctx: Context,
    service: str,
    release: Release,
    *,
    others: tuple[Release, ...] = (),
    shown: bool = True,
    **values: object,
) -> Iterator[Resource]:
    """The service's unit. It reads everything once, at its start.

    others: releases beside its own that it works with. shown: it has a key pair.
    """
    name = UPSTREAM.service(service).units[0]
    path = f"/etc/systemd/system/{name}"
    settings: dict[str, object] = {
        "after": (), "requires": (), "wrapper": "", "flags": "", "delegate": False, "environment": {},
    }  # fmt: skip
    yield File(
        path=path,
        content=ctx.render(
            "upstream/service.j2", service=UPSTREAM.service(service), account=OWNER, state=STATE,
            config=f"{folder(service)}/config.json", nofile=ctx.settings.base.service_nofile, **(settings | values),
        ),
    )  # fmt: skip
    files = (f"{folder(service)}/config.json", release.file, *(one.file for one in others), path)
    yield Unit(name=name, rolling=True, restart_files=(*files, *(pair(service) if shown else ())))


def ways(service: str, *releases: Release, **values: Any) -> Iterator[Way]:
    """Restarted when it is owed; what a roll brings back includes the release."""
    names = UPSTREAM.service(service).units
    yield Way(
        name=names[0].removesuffix(".service"), service=service, units=names, gates=gates.usual(service, names),
        after_back="\n".join(upstream_release.back(release) for release in releases), **values,
    )  # fmt: skip


def dsn(ctx: Context, user: str, *, parse_time: bool) -> str:
    """As go-sql-driver wants it. parse_time: the grader reads times, and fails without.

    With TLS it insists, and verifies the server by what Go takes for the system's CAs (see database_trust).
    """
    port = UPSTREAM.port("mysql", "mysql")
    wanted = [*(["parseTime=true"] if parse_time else []), *(["tls=true"] if ctx.settings.mysql.tls else [])]
    query = f"?{'&'.join(wanted)}" if wanted else ""
    return f"{user}:{ctx.secret(f'mysql/{user}')}@tcp(mysql:{port})/{ctx.settings.mysql.database}{query}"


def database_trust(ctx: Context) -> dict[str, str]:
    """Environment of a program with a DSN: the fleet's CA beside those in /etc/ssl/certs, which stay (crypto/x509)."""
    return {"SSL_CERT_FILE": CA_FILE} if ctx.settings.mysql.tls else {}


def logging(ctx: Context, level: str) -> dict[str, Any]:
    """To standard error, and so to the journal; there is nothing else."""
    return {"Level": "warn" if level == "warning" else level, "JSON": False}


def metrics(service: str) -> dict[str, int]:
    return {"Port": UPSTREAM.port(service, "metrics")}


def tls(service: str) -> dict[str, str]:
    shown, key = pair(service)
    return {"CertFile": shown, "KeyFile": key}


def url(service: str, port: str, scheme: str = "https") -> str:
    return f"{scheme}://{service}:{UPSTREAM.port(service, port)}"
