"""Sizes for eight hosts on one small machine; everything else is the spec's default."""

environment = "development"

# Its hosts live for hours, and what is measured on them must not meet apt.
base = {"updates": "off"}

# Its hosts, one more that could join them, and their network: the CA signs for nothing else.
trust = {"permitted": ["data1", "data2", "data3", "data4", "web1", "web2", "app1", "run1", "mon1", "10.77.0.0/24"]}

redis = {"sessions_maxmemory": "64mb", "repl_backlog_size": "16mb"}
mysql = {"innodb_buffer_pool_size": "128mb"}
frontend = {"fpm_max_children": 8, "fpm_start_servers": 2, "fpm_min_spare": 1, "fpm_max_spare": 4}
runner = {
    "languages": ["py3"],
    "sandbox_memory": "256mb",
    "sandbox_disk": "32mb",
    # The lab's hosts have control groups without controllers (see lab/cgroups.py).
    "sandbox_without": ["memory.max", "pids.max"],
}

# What the kernel of a container on a shared machine cannot take (plan and status show these).
waivers = [
    {"what": "sysctl:vm.overcommit_memory", "why": "the lab's hosts share the machine's kernel: vm.* is read-only"},
    {"what": "unit:systemd-timesyncd.service", "why": "the lab's hosts share the machine's clock: no CAP_SYS_TIME"},
    {"what": "limit:nofile:*", "why": "the lab's hosts may raise LimitNOFILE to 20000 at most, whatever is asked for"},
]
