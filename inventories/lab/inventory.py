"""The lab: eight hosts on this machine, booted by `fleet lab up` (their addresses are in lab.toml)."""

import os
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAB = Path(os.environ.get("FLEET_LAB_STATE", "/var/lib/fleet-lab")) / HERE.name
ADDRESSES = tomllib.loads((HERE / "lab.toml").read_text())["hosts"]

all = (  # pyinfra's name for the group of all hosts
    [(name, {"ssh_hostname": address}) for name, address in ADDRESSES.items()],
    {
        "inventory": str(HERE),
        "ssh_user": "root",
        "ssh_key": str(LAB / "ssh/id_ed25519"),
        "ssh_known_hosts_file": str(LAB / "ssh/known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    },
)

redis = ["data1", "data2", "data3"]
sentinel = ["data1", "data2", "data3"]
rabbitmq = ["data1", "data2", "data3"]
mysql = ["data1", "data2", "data3"]
gitserver = ["app1"]
broadcaster = ["app1"]
grader = ["app1"]
worker = ["app1"]
runner = ["run1"]
frontend = ["web1", "web2"]
monitoring = ["mon1"]
