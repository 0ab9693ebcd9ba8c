"""What the real omegaUp needs beside the defaults. Every sha256 here is made up: put in those of your own files."""

environment = "production"
profile = "upstream"

base = {
    "operators": [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2olzlNreNHLBoGPlVjm/t9IzQ0W9xwZqmidj24Thxz first.operator",
    ],
    "login": "deploy",
    "ssh_from": ["198.51.100.0/24"],
}

upstream = {
    "url": "https://judge.example",
    # From where a host fetches a release, and what it must hash to.
    "backend": {
        "source": "https://releases.example/quark/v1.9.74/omegaup-backend.tar.xz",
        "sha256": "b" * 64,
    },
    "runner": {
        "source": "https://releases.example/quark/v1.9.74/omegaup-runner.tar.xz",
        "sha256": "c" * 64,
    },
    "gitserver": {
        "source": "https://releases.example/gitserver/v1.9.17/omegaup-gitserver.tar.xz",
        "sha256": "d" * 64,
    },
    # Unpacked over each other: the sandbox, then what it runs programs in.
    "omegajail": [
        {"source": "https://releases.example/omegajail/v3.10.4/omegajail-distrib.tar.xz", "sha256": "e" * 64},
        {"source": "https://releases.example/omegajail/v3.8.0/omegajail-rootfs.tar.xz", "sha256": "f" * 64},
    ],
    "libinteractive": {
        "source": "https://releases.example/libinteractive/v2.0.27/libinteractive.jar",
        "sha256": "1" * 64,
    },
    # Built by you (docs/upstream.md), and sent by the controller: below this inventory.
    "frontend": {"source": "releases/frontend.tar.xz", "sha256": "2" * 64},
    "python": {"source": "releases/python.tar.xz", "sha256": "3" * 64},
    # "migrations_read": sha256 of the frontend release, once somebody has read its new migrations.
}

# Never allkeys-lru: the real site keeps the versions of what it cached in keys without an end.
redis = {"maxmemory_policy": "volatile-lru"}

# The consumer of certificates holds one connection and loses a message when that was cut as idle.
mysql = {"max_connections": 200, "wait_timeout": 604800}
proxy = {"idle_timeout": "7d"}

frontend = {"memory_limit": "1gb", "fpm_child_memory": "128mb"}
