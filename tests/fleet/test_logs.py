"""Journals on their way: what a host says arrives on the monitoring host, in its own file, and is bounded there."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from deploy.model.catalog import SERVICES, SSL_DIR
from deploy.model.fleet import Fleet, HostSpec
from deploy.roles import log_sender, log_store
from tests.fleet.conftest import connection

PORT = SERVICES["log-store"].port("https").number


def test_what_a_host_says_is_stored_in_its_own_file(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    """Each host says something each quarter of an hour."""
    keeper = log_store.store(fleet)
    if keeper is None:
        pytest.skip("this fleet has no monitoring host")
    files = f"{log_store.STORE}/remote-{log_store.source(spec.name)}[.@]*"
    ask = f"journalctl -q --file '{files}' --since=-16min -n 1 -o cat --output-fields=_HOSTNAME"
    assert connection(keeper.name).check_output(ask).strip() == host.check_output("uname -n")


def test_nothing_of_it_listens_to_the_network(host: Host, spec: HostSpec) -> None:
    for socket in ("systemd-journal-remote.socket", "systemd-journal-gatewayd.socket"):
        assert host.run(f"systemctl is-enabled {socket}").stdout.strip() == "masked"
    if spec.has("log-store"):
        port = SERVICES["log-store"].port("store").number
        assert host.check_output(f"ss -Hltn sport = :{port}").split()[3] == f"127.0.0.1:{port}"


def test_the_sender_keeps_its_place(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    """What is written while nobody takes it is sent later: that needs a state that outlives the process."""
    if log_store.store(fleet) is None:
        pytest.skip("this fleet has no monitoring host")
    assert "LAST_CURSOR=" in host.file("/var/lib/systemd/journal-upload/state").content_string
    assert host.service(log_sender.UNIT).is_running


@pytest.mark.service("log-store")
def test_the_store_is_bounded(host: Host, spec: HostSpec) -> None:
    used = int(host.check_output(f"du -sb {log_store.STORE}").split()[0])
    assert used <= spec.settings.monitoring.logs_max
    assert host.service(f"{log_store.BOUND}.timer").is_running
    assert host.file(log_store.STORE).mode & 0o007 == 0


def test_only_senders_may_send(fleet: Fleet) -> None:
    """With another role's certificate, and with none; on the store's own host, so that no firewall stands between."""
    for place in fleet.members("log-store"):
        host = connection(place.name)
        url = f"https://{place.name}:{PORT}"
        curl = f"curl -s -m 10 -o /dev/null -w '%{{http_code}}' --cacert {SSL_DIR}/ca.crt"

        def code(name: str, path: str, options: str = "", host: Host = host, url: str = url, curl: str = curl) -> str:
            pair = f"--cert {SSL_DIR}/{name}.crt --key {SSL_DIR}/{name}.key" if name else ""
            return str(host.run(f"{curl} {pair} {options} {url}{path}").stdout)

        assert code("log-sender", "/health") == "200"
        assert code("monitoring", "/upload", "-X POST -d x") == "403"
        assert code("", "/upload", "-X POST -d x") == "000"
        assert code("log-sender", "/browse") == "404"
