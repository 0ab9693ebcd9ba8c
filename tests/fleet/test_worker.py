"""The workers' hosts: what their configurations need is there, and a font for every script."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from deploy.model.catalog import QUEUES, WORKERS
from deploy.model.fleet import HostSpec
from deploy.roles import backend
from deploy.roles.rabbitmq_topology import dead
from deploy.roles.worker import FOLDER, QUEUE_TOOL

pytestmark = pytest.mark.service("worker")


@pytest.mark.parametrize("name", WORKERS)
def test_it_could_start_as_it_is_configured(host: Host, spec: HostSpec, name: str) -> None:
    """Pango and cairo, too, for the certificates."""
    check = f"{backend.HOME}/current/bin/omegaup-worker --config {FOLDER}/{name}.json --check"
    done = host.run(f"runuser -u {backend.owner('worker')} -- {check}")
    assert done.rc == 0, done.stderr


@pytest.mark.parametrize("language", ["ar", "he", "fa", "ja", "ko", "zh-cn", "ru", "el", "hi", "th", "ta", "ka", "am"])
def test_a_font_for_each_script(host: Host, spec: HostSpec, language: str) -> None:
    assert host.check_output(f"fc-list :lang={language} file") != ""


def test_the_tool_for_people_reaches_every_queue(host: Host, spec: HostSpec) -> None:
    words = " ".join(name for queue in QUEUES for name in (queue.name, dead(queue.name)))
    found = json.loads(host.check_output(f"{QUEUE_TOOL} list {words}"))
    assert {one["queue"] for one in found} == set(words.split())
