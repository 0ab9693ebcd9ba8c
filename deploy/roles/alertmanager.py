"""Alertmanager: who is told of an alert, once, however many Prometheus say it.

Beside every Prometheus there is one; they gossip by mutual TLS, and each Prometheus tells all of them. Everything goes
to the log of alerts on this host; pages go to those named in the settings, and so does the sign of life that somebody
outside has to miss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from deploy.model.catalog import SERVICES
from deploy.model.fleet import Context
from deploy.model.resources import Directory, File, Package, Query, Resource, Unit
from deploy.model.secrets import Change, SecretSpec
from deploy.roles.common import CA_FILE, certificate
from deploy.roles.exporters import ACCOUNT
from deploy.roles.proven import reloaded

UNIT = "prometheus-alertmanager.service"
CONFIG = "/etc/prometheus/fleet.alertmanager.yml"
GOSSIP = "/etc/prometheus/fleet.gossip.yml"
DEFAULTS = "/etc/default/prometheus-alertmanager"
MAIL_FILE = "/etc/prometheus/fleet.mail-password"
TOKEN_FILE = "/etc/prometheus/fleet.webhook-token"  # noqa: S105  # nosec B105
"""Where it lies, not what it is."""
SUBJECT = "{{ .Status | toUpper }}: {{ .GroupLabels.alertname }}: {{ (index .Alerts 0).Annotations.summary }}"
EVERYBODY, PEOPLE, DEADMAN = "log", "people", "deadman"

SECRETS = {
    "monitoring/webhook": SecretSpec(
        "token",
        "Alertmanager proves itself with it to monitoring.webhook",
        change=Change.ISSUED,
        why="whoever receives at monitoring.webhook has to take another one first: agree on it, then store it with "
        "fleet secrets set",
    ),
    "monitoring/mail": SecretSpec(
        "password",
        "Alertmanager's password at monitoring.mail.relay: fleet secrets set",
        change=Change.ISSUED,
        why="the relay's own: have another one made there, and store it with fleet secrets set",
    ),
}

SUITES = tuple(
    f"TLS_ECDHE_{key}_WITH_{cipher}" for key in ("ECDSA", "RSA") for cipher in (
        "AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256",
    )
)  # fmt: skip
"""Of TLS 1.2, as Go names them; those of 1.3 are not chosen."""


def configuration(ctx: Context) -> dict[str, Any]:
    """Routes, inhibition, receivers."""
    settings = ctx.settings.monitoring
    log = f"http://127.0.0.1:{SERVICES['alert-log'].port('http').number}/alerts"
    people: dict[str, Any] = {"name": PEOPLE, "webhook_configs": [{"url": log, "send_resolved": True}]}
    if settings.webhook:
        authorization = {"type": "Bearer", "credentials_file": TOKEN_FILE}
        people["webhook_configs"].append(
            {"url": settings.webhook, "send_resolved": True, "http_config": {"authorization": authorization}}
        )
    if settings.mail:
        mail: dict[str, Any] = {
            "to": ", ".join(settings.mail.to), "from": settings.mail.sender, "smarthost": settings.mail.relay,
            "send_resolved": True, "require_tls": True, "headers": {"Subject": SUBJECT},
        }  # fmt: skip
        if settings.mail.user:
            mail |= {"auth_username": settings.mail.user, "auth_password_file": MAIL_FILE}
        people["email_configs"] = [mail]
    receivers = [{"name": EVERYBODY, "webhook_configs": [{"url": log, "send_resolved": True}]}, people]
    routes: list[dict[str, Any]] = [
        # No receiver but whoever waits for it: a sign of life is no news.
        {"matchers": ['alertname="Watchdog"'], "receiver": "nobody", "repeat_interval": "1m", "group_wait": "0s"},
        {"matchers": ['severity="page"'], "receiver": PEOPLE},
    ]
    receivers.append({"name": "nobody"})
    if settings.deadman:
        receivers.append({"name": DEADMAN, "webhook_configs": [{"url": settings.deadman, "send_resolved": False}]})
        routes[0] |= {"receiver": DEADMAN, "group_interval": "1m"}
    return {
        "route": {
            "receiver": EVERYBODY, "group_by": ["alertname", "host"], "group_wait": "10s", "group_interval": "1m",
            "repeat_interval": f"{int(settings.repeat)}s", "routes": routes,
        },
        "inhibit_rules": [
            # A dead host is one page: what was on it says nothing new, and neither do those who miss it.
            {
                "source_matchers": ['alertname="HostDown"'], "target_matchers": ['alertname!="HostDown"'],
                "equal": ["host"],
            },
            {
                "source_matchers": ['alertname="HostDown"'], "target_matchers": ['host_explains="yes"'],
                "equal": ["fleet"],
            },
            # The worse of two.
            {
                "source_matchers": ['alertname="DiskFull"'], "target_matchers": ['alertname="DiskLow"'],
                "equal": ["host", "mountpoint"],
            },
            {
                "source_matchers": ['alertname="RedisMemoryFull"'], "target_matchers": ['alertname="RedisMemoryHigh"'],
                "equal": ["host", "redis"],
            },
            {
                "source_matchers": ['alertname="CertificateEnds"'],
                "target_matchers": ['alertname="CertificateEndsSoon"'], "equal": ["host", "certificate", "check"],
            },
            {
                "source_matchers": ['alertname="RabbitmqNoMajority"'],
                "target_matchers": ['alertname=~"RabbitmqMemberMissing|RabbitmqParted"'], "equal": ["fleet"],
            },
        ],
        "receivers": receivers,
    }  # fmt: skip


def desired(ctx: Context) -> Iterable[Resource]:
    service = SERVICES["alertmanager"]
    yield Package(name="prometheus-alertmanager")
    pair = certificate(ctx, "alertmanager")
    yield pair
    # Before the configuration, whose checker wants to see them.
    for path, secret in ((MAIL_FILE, "monitoring/mail"), (TOKEN_FILE, "monitoring/webhook")):
        yield File(path=path, content=ctx.secret(secret), group=ACCOUNT, mode=0o640, secret=True)
    text = json.dumps(configuration(ctx), indent=2) + "\n"
    yield File(path=CONFIG, content=text, check='amtool check-config "$CANDIDATE" >/dev/null')
    own = {"cert_file": pair.certificate_path, "key_file": pair.key_path}
    gossip = {
        "tls_server_config": {**own, "client_ca_file": CA_FILE, "client_auth_type": "RequireAndVerifyClientCert",
                              # Without a list, Go 1.19 takes suites that are not forward secret.
                              "min_version": "TLS12", "cipher_suites": list(SUITES)},
        "tls_client_config": {**own, "ca_file": CA_FILE},
    }  # fmt: skip
    yield File(path=GOSSIP, content=json.dumps(gossip, indent=2) + "\n")
    port = service.port("gossip").number
    peers = [host.address for host in ctx.fleet.members("alertmanager") if host is not ctx.host]
    arguments = " ".join(
        (
            f"--config.file={CONFIG}", f"--web.listen-address=127.0.0.1:{service.port('api').number}",
            f"--cluster.listen-address={ctx.host.address}:{port}",
            f"--cluster.advertise-address={ctx.host.address}:{port}",
            f"--cluster.tls-config={GOSSIP}", *(f"--cluster.peer={address}:{port}" for address in peers),
        )
    )  # fmt: skip
    yield File(path=DEFAULTS, content=ctx.render("exporters/default.j2", arguments=arguments, environment={}))
    drop_in = f"/etc/systemd/system/{UNIT}.d/60-fleet.conf"
    yield Directory(path=f"/etc/systemd/system/{UNIT}.d")
    yield File(path=drop_in, content=ctx.render("alertmanager/service.conf.j2"))
    files = (CONFIG, MAIL_FILE, TOKEN_FILE)
    # Its pair for the gossip is read at the start alone.
    yield Unit(name=UNIT, restart_files=(DEFAULTS, drop_in, GOSSIP, pair.certificate_path, CA_FILE), reload_files=files)
    query = Query(
        "alertmanager",
        ctx.render(
            "alertmanager/ask.sh.j2", port=service.port("api").number, files=" ".join(files)
        ),
        UNIT,
    )  # fmt: skip
    yield from reloaded(
        ctx, query, {"reload": "successful"}, files, unit=UNIT, seconds=30,
        words=f"journalctl --no-pager -o cat -n 6 -u {UNIT}",
    )  # fmt: skip
