"""An example to copy: a judge on nine hosts. Addresses are from the ranges kept for documentation."""

from pathlib import Path

HERE = Path(__file__).resolve().parent

# A host's name is its short host name; ssh_hostname is the address that both you and the other hosts use.
# Hosts with two networks: machine = {"address": "..."} is what the other hosts use.
all = (  # pyinfra's name for the group of all hosts
    [
        ("data1", {"ssh_hostname": "192.0.2.11"}),
        ("data2", {"ssh_hostname": "192.0.2.12"}),
        ("data3", {"ssh_hostname": "192.0.2.13"}),
        ("web1", {"ssh_hostname": "192.0.2.21"}),
        ("web2", {"ssh_hostname": "192.0.2.22"}),
        ("app1", {"ssh_hostname": "192.0.2.31"}),
        ("run1", {"ssh_hostname": "192.0.2.41"}),
        ("run2", {"ssh_hostname": "192.0.2.42"}),
        ("mon1", {"ssh_hostname": "192.0.2.51"}),
    ],
    {
        # The folder of this inventory: secrets.age and pki/ lie beside it.
        "inventory": str(HERE),
        "ssh_user": "deploy",
        "_sudo": True,
        # Host keys are pinned: put them into known_hosts when you install the hosts.
        "ssh_known_hosts_file": str(HERE / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    },
)

# Groups are named after services. The first member leads on the very first boot only; later the service itself says
# who leads.
redis = ["data1", "data2", "data3"]
sentinel = ["data1", "data2", "data3"]
rabbitmq = ["data1", "data2", "data3"]
mysql = ["data1", "data2", "data3"]
gitserver = ["app1"]
broadcaster = ["app1"]
grader = ["app1"]
worker = ["app1"]
runner = ["run1", "run2"]
frontend = ["web1", "web2"]
monitoring = ["mon1"]
