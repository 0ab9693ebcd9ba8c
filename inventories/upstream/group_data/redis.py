"""The data hosts: sizes are checked against this memory before anything is done."""

machine = {"memory": "8gb"}
