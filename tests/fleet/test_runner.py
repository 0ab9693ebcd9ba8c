"""The runner's sandbox as it is: a box says of itself whether it is tight, and this only asks it."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from deploy.model.fleet import HostSpec
from deploy.roles import backend
from deploy.roles.runner import SANDBOX, SOCKET, SOCKET_UNIT

pytestmark = pytest.mark.service("runner")

HELLO = (
    f"import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect('{SOCKET}');"
    " print(s.makefile().readline())"
)


def test_a_box_is_tight_and_has_the_languages(host: Host, spec: HostSpec) -> None:
    said = json.loads(host.check_output(f'python3 -c "{HELLO}"'))
    assert said["uncontained"] == []
    assert set(said["languages"]) >= set(spec.settings.runner.languages)


def test_nobody_but_the_runner_gets_a_box(host: Host, spec: HostSpec) -> None:
    assert host.service(SOCKET_UNIT).is_running
    socket = host.file(SOCKET)
    assert (socket.user, socket.mode) == (backend.owner("runner"), 0o600)


def test_boxes_leave_nothing_behind(host: Host, spec: HostSpec) -> None:
    assert host.check_output(f"find /var/lib/{SANDBOX} -mindepth 1") == ""
    failed = host.check_output(f"systemctl list-units --failed --plain --no-legend '{SANDBOX}@*'")
    assert failed == ""


def test_the_runner_judges_as_is_set(host: Host, spec: HostSpec) -> None:
    config = json.loads(host.file("/etc/omegaup/runner/config.json").content_string)
    assert config["judge"] == spec.settings.runner.judge
