"""Make a host's network bad: loss, and delay.

Both are set on the bridge's side of the host's cable, where the host cannot undo
them. Loss is done by nft in the family bridge and needs nothing of the kernel
but nf_tables; it also loses ARP, so 100 % is a pulled cable. Delay needs netem
(CONFIG_NET_SCH_NETEM), which small kernels have not.
"""

from __future__ import annotations

from lab.errors import LabError
from lab.network import peer
from lab.spec import LabSpec
from lab.system import run

_HOOKS = {"in": ("prerouting", "iifname"), "out": ("postrouting", "oifname")}
# netem's own 1000 packets would drop bulk traffic at long delays.
_QUEUE = 20000  # packets


def shape(spec: LabSpec, host: str, pid: int, delay_ms: float | None, loss: float | None) -> None:
    """Set what is given, and end what is not.

    `delay_ms` is added to what the host receives, so to each round trip; it ends when the host restarts.
    `loss` is a percentage of what it sends and, separately, of what it receives; it stays until changed.
    Raises LabError for a value out of range, or a kernel without netem.
    """
    if loss is not None and not 0 <= loss <= 100:
        raise LabError(host, f"loss {loss:g}", "a percentage, 0 to 100")
    if delay_ms is not None and not 0 <= delay_ms <= 60_000:
        raise LabError(host, f"delay {delay_ms:g} ms", "0 to 60000 ms")
    device = peer(spec, pid)
    _delay(host, device, delay_ms or 0)
    run(["nft", "-f", "-"], input=loss_rules(spec.table, host, device, loss or 0))


def loss_rules(table: str, host: str, device: str, loss: float) -> str:
    """The transaction that sets a host's loss (in percent; 0 removes its chains)."""
    lines = [f"add table bridge {table}"]
    for way, (hook, match) in _HOOKS.items():
        chain = f"bridge {table} loss_{way}_{host.replace('-', '_')}"
        lines += [
            f"add chain {chain} {{ type filter hook {hook} priority -300; policy accept; }}",
            f"flush chain {chain}",
        ]
        if parts := round(loss * 100):
            lost = f"numgen random mod 10000 <= {parts - 1} drop"
            lines.append(f'add rule {chain} {match} "{device}" {lost}')
        else:
            lines.append(f"delete chain {chain}")
    return "\n".join(lines) + "\n"


def _delay(host: str, device: str, delay_ms: float) -> None:
    tc = ["tc", "qdisc"]
    if not delay_ms:
        if "netem" in run([*tc, "show", "dev", device]).stdout:
            run([*tc, "del", "dev", device, "root"])
        return
    netem = ["netem", "limit", str(_QUEUE), "delay", f"{delay_ms:g}ms"]
    done = run([*tc, "replace", "dev", device, "root", *netem], check=False)
    if done.returncode != 0:
        raise LabError(
            host,
            f"cannot delay its packets: {done.stderr.strip()}",
            "a kernel with netem (CONFIG_NET_SCH_NETEM)",
            "modprobe sch_netem; without it only loss can be set",
        )
