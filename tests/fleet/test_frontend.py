"""nginx and PHP-FPM as they run."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from deploy.model.fleet import HostSpec

pytestmark = pytest.mark.service("frontend")


def headers(host: Host, path: str, options: str = "") -> str:
    return str(host.check_output(f"curl -s -m 10 -o /dev/null -D - {options} http://127.0.0.1{path}")).lower()


def test_answers_as_php(host: Host, spec: HostSpec) -> None:
    assert " 200 " in headers(host, "/health/live").splitlines()[0]


def test_says_no_version(host: Host, spec: HostSpec) -> None:
    said = headers(host, "/")
    assert "server: nginx\r" in said + "\r"
    assert "x-powered-by" not in said


@pytest.mark.parametrize("path", ["/.git/config", "/../etc/passwd", "/config.php", "/src/App.php"])
def test_gives_no_source_away(host: Host, spec: HostSpec, path: str) -> None:
    body = host.run(f"curl -s -m 10 --path-as-is http://127.0.0.1{path}").stdout
    assert "<?php" not in body
    assert "root:" not in body


def test_body_limits_agree(host: Host, spec: HostSpec) -> None:
    """nginx's running limit: a body over it is refused before it is read."""
    limit = spec.settings.frontend.body_max
    said = headers(host, "/submit", f"-H 'Content-Length: {limit + 1}' -X POST")
    assert " 413 " in said.splitlines()[0]


def test_pool(host: Host, spec: HostSpec) -> None:
    listing = host.check_output("ps -eo user:32,args")
    workers = [line for line in listing.splitlines() if "php-fpm: pool" in line]
    assert workers
    assert all(line.startswith("omegaup-frontend") for line in workers)
    assert not any("pool www" in line for line in workers)
    assert len(workers) <= spec.settings.frontend.fpm_max_children


def test_certificate_is_the_frontends_alone(host: Host, spec: HostSpec) -> None:
    key = host.file("/etc/omegaup/ssl/frontend.key")
    assert (key.user, key.mode) == ("omegaup-frontend", 0o400)
