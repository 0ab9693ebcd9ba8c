"""What every host must be: names, ports, limits, firewall, SSH, time, journal."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from deploy.model.catalog import ANYONE, PROXY_ADDRESS, RELEASES
from deploy.model.fleet import Fleet, HostSpec
from deploy.model.records import HOST_FILE, HOST_FOLDER, HOST_GROUP, HOST_MODE, parse
from deploy.model.resources import PREVIOUS
from deploy.roles.logins import ALLOWED, SUDOERS
from deploy.roles.updates import LEFT_TO_ROLL
from tests.fleet.conftest import waived

SYSTEM_PORTS = {22, 53, 5355, 68}
"""sshd, systemd-resolved and DHCP: not the catalog's."""


def test_is_debian(host: Host, spec: HostSpec) -> None:
    assert host.system_info.distribution == "debian"
    assert host.system_info.release.split(".")[0] == "12"


def test_systemd_has_no_failed_unit(host: Host, spec: HostSpec) -> None:
    failed = host.run("systemctl --failed --no-legend --plain").stdout.split("\n")
    assert [line.split()[0] for line in failed if line.strip()] == []


def test_names_of_services_resolve_to_members(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    for service in fleet.services():
        members = {member.address for member in fleet.members(service.name)}
        if service.proxied:
            if not spec.has("proxy"):
                continue
            members = {PROXY_ADDRESS}
        for name in service.names:
            found = host.run(f"getent ahostsv4 {name}").stdout.split()
            assert found, f"{name} does not resolve"
            assert found[0] in members, f"{name} resolves to {found[0]}, no member of {service.name}"


def test_names_of_hosts_resolve(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    for other in fleet.hosts:
        assert host.run(f"getent ahostsv4 {other.name}").stdout.split()[0] == other.address


def _listening(host: Host) -> set[tuple[str, int]]:
    """(address, port) of every listening TCP socket."""
    found = set()
    for line in host.check_output("ss -Hltn").splitlines():
        address, _, port = line.split()[3].rpartition(":")
        found.add((address.strip("[]"), int(port)))
    return found


def test_every_port_of_the_catalog_listens(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    listening = {port for _, port in _listening(host)}
    for service in spec.services:
        for port in service.ports:
            if port.last:
                continue
            assert port.number in listening, f"{service.name}: nothing listens on {port.number} ({port.name})"


def test_nothing_else_listens_to_the_network(host: Host, spec: HostSpec) -> None:
    known = {port.number for service in spec.services for port in service.ports if not port.loopback or port.everywhere}
    known |= SYSTEM_PORTS | set(spec.settings.base.ssh_ports)
    open_to_all = {port for address, port in _listening(host) if not address.startswith("127.") and address != "::1"}
    assert open_to_all - known == set()


def test_firewall_drops_what_the_catalog_does_not_name(host: Host, spec: HostSpec, fleet: Fleet) -> None:
    rules = host.check_output("nft list chain inet fleet input")
    assert "policy drop" in rules
    for service in spec.services:
        for port in service.ports:
            lines = [line for line in rules.splitlines() if f"dport {port.shown} accept" in line]
            sources = fleet.sources(service, port, spec)
            if port.loopback or sources == ():
                assert lines == [], f"{port.number} is open, nobody may connect"
                continue
            assert len(lines) == 1
            if ANYONE in port.clients:
                assert "saddr" not in lines[0]
            else:
                assert sources is not None
                assert all(address in lines[0] for address in sources)


def test_kernel_parameters(host: Host, spec: HostSpec) -> None:
    assert host.sysctl("net.core.somaxconn") == spec.settings.base.somaxconn
    assert host.sysctl("net.ipv4.tcp_retries2") == spec.settings.base.tcp_retries2
    if spec.has("redis"):
        if why := waived(spec, "sysctl:vm.overcommit_memory"):
            pytest.skip(f"declared exception: {why}")
        assert host.sysctl("vm.overcommit_memory") == 1


def test_sshd_runs_hardened(host: Host, spec: HostSpec) -> None:
    values = dict(line.split(" ", 1) for line in host.check_output("sshd -T").splitlines() if " " in line)
    assert values["passwordauthentication"] == "no"
    assert values["kbdinteractiveauthentication"] == "no"
    assert values["permitrootlogin"] in {"without-password", "prohibit-password", "no"}
    assert values["x11forwarding"] == "no"
    assert values["authenticationmethods"] == "publickey"
    assert (values["permitrootlogin"] == "no") == (spec.settings.base.root_login == "no")
    for option in ("kexalgorithms", "ciphers", "macs", "hostkeyalgorithms"):
        assert not re.search(r"sha1|nistp|cbc|group14|hmac-sha2-\d+(,|$)", values[option]), values[option]


def test_only_the_deployments_commands_become_root(host: Host, spec: HostSpec) -> None:
    if spec.settings.base.login == "root":
        pytest.skip("operators log in as root")
    rule = host.file(SUDOERS)
    assert (rule.user, rule.group, rule.mode) == ("root", "root", 0o440)
    said = host.check_output(f"sudo -l -U {spec.settings.base.login}")
    assert all(f"NOPASSWD: {command}" in said.replace("\\", "") for command in ALLOWED), said


def test_operators_may_log_in_by_their_keys(host: Host, spec: HostSpec) -> None:
    """Theirs and nobody else's, where sshd looks for them."""
    login = spec.settings.base.login
    keys = host.file(f"/etc/ssh/fleet_keys/{login}")
    assert keys.content_string.splitlines() == list(spec.settings.base.operators)
    assert (keys.user, keys.group, keys.mode) == ("root", "root", 0o644)
    assert host.check_output("ls /etc/ssh/fleet_keys").split() == [login]
    effective = host.check_output(f"sshd -T -C user={login},host=x,addr=192.0.2.1 | grep -i ^authorizedkeysfile")
    assert "/etc/ssh/fleet_keys/%u" in effective.split()


def test_sshd_has_loaded_its_configuration(host: Host, spec: HostSpec) -> None:
    """The running daemon, not only the file: it was started or reloaded after the file was written."""
    stamp = host.file("/run/fleet/stamps/ssh.service").content_string
    assert host.check_output("sha256sum /etc/ssh/sshd_config.d/10-fleet.conf").split()[0] in stamp


def test_journal_is_bounded(host: Host, spec: HostSpec) -> None:
    limit = spec.settings.base.journal_max
    assert f"SystemMaxUse={limit}" in host.check_output("systemd-analyze cat-config systemd/journald.conf")


def test_time_is_kept(host: Host, spec: HostSpec) -> None:
    if why := waived(spec, "unit:systemd-timesyncd.service"):
        pytest.skip(f"declared exception: {why}")
    assert host.service("systemd-timesyncd").is_running


@pytest.mark.parametrize("path", ["/etc/omegaup/ssl", "/etc/fleet"])
def test_folders_are_not_writable_by_others(host: Host, spec: HostSpec, path: str) -> None:
    found = host.file(path)
    assert (found.user, found.mode & 0o022) == ("root", 0)


def test_no_secret_is_readable_by_everybody(host: Host, spec: HostSpec) -> None:
    places = "/etc/omegaup /etc/redis /etc/rabbitmq /etc/mysql /etc/fleet /var/lib/fleet"
    # Earlier files lie where nobody but root gets, whatever their own modes.
    assert host.file(PREVIOUS).mode == 0o700
    pattern, hidden = "pass(word)?|masterauth|secret|PRIVATE KEY", PREVIOUS.rpartition("/")[2]
    command = f"grep -rslE --exclude-dir={hidden} '{pattern}' {places} 2>/dev/null"
    names = host.run(f"{command} | xargs -r stat -c '%a %n'").stdout.splitlines()
    open_files = [line for line in names if int(line.split()[0], 8) & 0o004 and not _no_secret(line.split()[1])]
    assert open_files == []


def _no_secret(path: str) -> bool:
    """Files that mention the word without holding one: a stamp names the files that a unit has read."""
    return (
        path.endswith((".crt", "debian.cnf", ".d/README"))
        or "/mysql/" in path
        or path.startswith("/etc/fleet/stamps/")
        or path == "/etc/redis/redis.conf"
    )


def test_units_run_and_start_at_boot(host: Host, spec: HostSpec) -> None:
    for service in spec.services:
        for unit in service.units_on(RELEASES["12"]):
            assert host.service(unit).is_running, f"{unit} does not run"
            assert host.service(unit).is_enabled, f"{unit} does not start at boot"


def test_limits_hold_on_the_running_process(host: Host, spec: HostSpec) -> None:
    """Asserted on the process, since a container lowers them silently."""
    for unit in ("redis-cache.service", "redis-sessions.service", "mariadb.service", "rabbitmq-server.service"):
        if not any(unit in service.units for service in spec.services):
            continue
        waiver = waived(spec, f"limit:nofile:{unit}")
        pid = host.check_output(f"systemctl show -p MainPID --value {unit}")
        line = host.check_output(f"grep 'Max open files' /proc/{pid}/limits")
        if waiver:
            assert int(line.split()[3]) >= 10032
        else:
            assert int(line.split()[3]) >= spec.settings.base.service_nofile


def test_the_audit_trail_is_for_root_and_administrators(host: Host, spec: HostSpec) -> None:
    folder, trail = host.file(HOST_FOLDER), host.file(HOST_FILE)
    assert (folder.user, folder.group, folder.mode) == ("root", HOST_GROUP, 0o750)
    assert (trail.user, trail.group, trail.mode) == ("root", HOST_GROUP, HOST_MODE)
    lines = parse(trail.content_string.splitlines())
    assert {"begin", "end"} <= {line["event"] for line in lines}
    assert any("SHA256:" in line["login"] for line in lines), "whose key it was, as sshd says"


def test_unattended_updates_leave_the_servers_alone(host: Host, spec: HostSpec) -> None:
    """As apt reads it there, all files together."""
    said = host.check_output("apt-config dump")
    if spec.settings.base.updates == "off":
        assert 'APT::Periodic::Unattended-Upgrade "0";' in said
        return
    assert 'APT::Periodic::Unattended-Upgrade "1";' in said
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in said
    assert re.findall(r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', said, flags=re.M) == list(LEFT_TO_ROLL)
