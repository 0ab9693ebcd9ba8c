"""An example to copy: the real omegaUp on nine hosts. Addresses are from the ranges kept for documentation.

docs/upstream.md says what has to be there before the first apply. Beside the profile it is like inventories/production.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent

all = (  # pyinfra's name for the group of all hosts
    [
        ("data1", {"ssh_hostname": "192.0.2.11"}),
        ("data2", {"ssh_hostname": "192.0.2.12"}),
        ("data3", {"ssh_hostname": "192.0.2.13"}),
        ("db1", {"ssh_hostname": "192.0.2.15"}),
        ("web1", {"ssh_hostname": "192.0.2.21"}),
        ("web2", {"ssh_hostname": "192.0.2.22"}),
        ("app1", {"ssh_hostname": "192.0.2.31"}),
        ("run1", {"ssh_hostname": "192.0.2.41"}),
        ("mon1", {"ssh_hostname": "192.0.2.51"}),
    ],
    {
        "inventory": str(HERE),
        "ssh_user": "deploy",
        "_sudo": True,
        "ssh_known_hosts_file": str(HERE / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    },
)

redis = ["data1", "data2", "data3"]
sentinel = ["data1", "data2", "data3"]
rabbitmq = ["data1", "data2", "data3"]
# One MySQL, one gitserver, one grader, one broadcaster: docs/upstream.md says why.
mysql = ["db1"]
gitserver = ["app1"]
broadcaster = ["app1"]
grader = ["app1"]
worker = ["app1"]
runner = ["run1"]
frontend = ["web1", "web2"]
monitoring = ["mon1"]
