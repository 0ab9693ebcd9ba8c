"""What holds for every host. Leave out what the defaults already say (deploy/model/settings.py has them all)."""

environment = "production"

base = {
    # The operators: they may log in, and the secrets are encrypted to these keys.
    "operators": [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB2olzlNreNHLBoGPlVjm/t9IzQ0W9xwZqmidj24Thxz first.operator",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHYG6MLtoYQVWnBpQfOmRGk4MGldqv+BbdOMheKUhvlV second.operator",
    ],
    "login": "deploy",
    "ssh_from": ["198.51.100.0/24"],
}

# What the CA may sign for: hosts' names, those of hosts to come included, and the network that they are in.
trust = {
    "permitted": [
        *(f"data{number}" for number in range(1, 6)),
        *(f"{kind}{number}" for kind in ("web", "app", "run", "mon") for number in range(1, 10)),
        "192.0.2.0/24",
    ]
}

mysql = {"max_connections": 200}
