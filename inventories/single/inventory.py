"""All of it on one host, which is a lab host too (`fleet lab up single`; its address is in lab.toml)."""

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

redis = rabbitmq = mysql = ["all1"]
gitserver = broadcaster = grader = worker = runner = ["all1"]
frontend = monitoring = ["all1"]
