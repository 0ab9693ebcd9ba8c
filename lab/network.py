"""The lab's network: a bridge with the gateway's address, and NAT.

All that is made here is found again by its name: the bridge, and the nft tables
`fleet_lab_BRIDGE`. Traffic from hosts to elsewhere is masqueraded. A table of
ours cannot overrule another's drop (in nftables each base chain has its say), so
where Docker or a firewall drops forwarded traffic, preflight says which rule
to add; see `forward_blocker`.
"""

from __future__ import annotations

import hashlib
import ipaddress

from lab.errors import LabError
from lab.spec import LabSpec
from lab.system import PROC, ip_json, run


def outer_mtu() -> int:
    """MTU of the interface with the default route, in bytes; 1500 without one."""
    for route in ip_json("-4", "route", "show", "default"):
        for link in ip_json("link", "show", "dev", str(route.get("dev", ""))):
            return int(link["mtu"])
    return 1500


def ensure(spec: LabSpec, mtu: int) -> None:
    """Make the bridge and the NAT table unless they are there."""
    if not is_up(spec):
        if not ip_json("link", "show", "dev", spec.bridge):
            run(["ip", "link", "add", "name", spec.bridge, "address", mac(spec), "type", "bridge"])
        run(["ip", "link", "set", spec.bridge, "mtu", str(mtu), "up"])
        run(["ip", "addr", "replace", f"{spec.gateway}/{spec.network.prefixlen}", "dev", spec.bridge])
    if run(["nft", "list", "table", "ip", spec.table], check=False).returncode != 0:
        run(["nft", "-f", "-"], input=ruleset(spec))


def mac(spec: LabSpec) -> str:
    """The bridge's MAC address: by it we know a bridge that we made.

    (Without one of its own, a bridge has the lowest of its ports', which changes as hosts come and go.)
    """
    digest = hashlib.sha256(f"fleet-lab {spec.bridge}".encode()).digest()
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def _ours(spec: LabSpec) -> bool:
    return any(link["address"] == mac(spec) for link in ip_json("link", "show", "dev", spec.bridge))


def plug(spec: LabSpec, pid: int) -> None:
    """Put a running host's cable back on the bridge, should the bridge have been made anew."""
    for link in ip_json("link", "show"):
        if str(link.get("ifindex")) == _iflink(pid) and link.get("master") != spec.bridge:
            run(["ip", "link", "set", link["ifname"], "master", spec.bridge, "up"])


def ruleset(spec: LabSpec) -> str:
    """The table of the lab, in nft's language."""
    return (
        f"table ip {spec.table} {{\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f"    ip saddr {spec.network} ip daddr != {spec.network} masquerade\n"
        "  }\n"
        "}\n"
    )


def is_up(spec: LabSpec) -> bool:
    """Whether the bridge is up and has its address."""
    for link in ip_json("-4", "addr", "show", "dev", spec.bridge):
        return "UP" in link["flags"] and any(a["local"] == str(spec.gateway) for a in link["addr_info"])
    return False


def remove(spec: LabSpec) -> None:
    """Remove the tables and the bridge, if they are there."""
    for family in ("ip", "bridge"):
        if run(["nft", "list", "table", family, spec.table], check=False).returncode == 0:
            run(["nft", "delete", "table", family, spec.table])
    if _ours(spec):
        run(["ip", "link", "delete", spec.bridge])


def peer(spec: LabSpec, pid: int) -> str:
    """Name of the bridge's side of a host's cable. Raises LabError if it is not on the bridge."""
    for link in ip_json("link", "show", "master", spec.bridge):
        if str(link.get("ifindex")) == _iflink(pid):
            return str(link["ifname"])
    raise LabError(spec.bridge, "the host's interface is not on the bridge", "", "stop the host, then start it")


def _iflink(pid: int) -> str:
    try:
        return (PROC / str(pid) / "root/sys/class/net/host0/iflink").read_text().strip()
    except OSError:
        return ""


def check_free(spec: LabSpec) -> None:
    """Raise LabError when another interface has the bridge's name, or another one or a route its network."""
    if ip_json("link", "show", "dev", spec.bridge) and not _ours(spec):
        raise LabError(
            f"bridge {spec.bridge}",
            "an interface of this name exists, and is no lab's",
            "a name that nothing else uses",
            f"choose another name in {spec.source}",
        )
    for link in ip_json("-4", "addr", "show"):
        for address in link.get("addr_info", []):
            other = ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
            if link["ifname"] != spec.bridge and other.overlaps(spec.network):
                raise LabError(
                    f"network {spec.network}",
                    f"{link['ifname']} has {other} already",
                    "a network that nothing else uses",
                    f"choose another network in {spec.source}",
                )
    for route in ip_json("-4", "route", "show"):
        target = str(route.get("dst", "default"))
        if target == "default" or route.get("dev") == spec.bridge:
            continue
        if ipaddress.ip_network(target, strict=False).overlaps(spec.network):
            raise LabError(
                f"network {spec.network}",
                f"there is a route to {target} by {route.get('dev')}",
                "a network that nothing else uses",
                f"choose another network in {spec.source}",
            )


def forward_blocker(spec: LabSpec) -> str:
    """What to tell when another firewall drops forwarded packets ('' if none seems to)."""
    done = run(["nft", "list", "ruleset"], check=False)
    if not any("hook forward" in line and "policy drop" in line for line in done.stdout.splitlines()):
        return ""
    chain = "DOCKER-USER" if "DOCKER-USER" in done.stdout else "FORWARD"
    return (
        f"a firewall on this machine drops forwarded packets; if hosts reach no mirror: "
        f"iptables -I {chain} -i {spec.bridge} -j ACCEPT; iptables -I {chain} -o {spec.bridge} -j ACCEPT"
    )
