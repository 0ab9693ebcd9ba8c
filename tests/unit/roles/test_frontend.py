"""The web hosts' desired state: what is deployed, what is checked, and that every part of it follows the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.converge.desired import host_state, render, tree
from deploy.model.fleet import Context, HostInput, Live, build
from deploy.model.resources import Directory, File, Only, Parameter, Phase, Resource, Unit
from deploy.roles import frontend, monitoring, php

HOSTS: Mapping[str, tuple[str, frozenset[str]]] = {
    "data1": ("10.0.0.11", frozenset({"redis", "mysql", "rabbitmq"})),
    "web1": ("10.0.0.21", frozenset({"frontend"})),
    "app1": ("10.0.0.31", frozenset({"gitserver", "broadcaster", "grader"})),
    "run1": ("10.0.0.41", frozenset({"runner"})),
    "run2": ("10.0.0.42", frozenset({"runner"})),
    "mon1": ("10.0.0.51", frozenset({"monitoring"})),
}
AWKWARD = "it's \\ a $ecret\" \\'"


def context(host: str, files: Callable[[str], Mapping[str, bytes]] = tree, **data: Any) -> Context:
    fleet = build(
        "test",
        {name: HostInput(groups, {"ssh_hostname": address, **data}) for name, (address, groups) in HOSTS.items()},
    )
    return Context(
        fleet=fleet, host=fleet.host(host), live=Live.first_boot(fleet), authority="CA", render=render, files=files,
        secret=lambda name: AWKWARD if name == "mysql/app" else f"secret of {name}",
    )  # fmt: skip


def by_key(resources: Any) -> dict[str, Resource]:
    return {item.key: item for item in resources}


def content(wanted: Mapping[str, Resource], path: str) -> str:
    item = wanted[f"file:{path}"]
    assert isinstance(item, File)
    return item.content


@pytest.fixture
def web() -> dict[str, Resource]:
    return by_key(frontend.desired(context("web1")))


def test_nothing_is_wanted_twice() -> None:
    for host in HOSTS:
        host_state(context(host))
    keys = [item.key for item in frontend.desired(context("web1"))]
    doubles = {key for key in keys if keys.count(key) > 1}
    assert not doubles


def test_only_what_runs_is_deployed(web: Mapping[str, Resource]) -> None:
    target, files = frontend.release(context("web1"))
    assert "www/index.php" in files
    assert not [path for path in files if path.startswith("sql") or "sample" in path]
    for path in files:
        assert f"file:{target}/{path}" in web


def test_a_change_of_one_byte_is_another_release() -> None:
    def edited(name: str) -> Mapping[str, bytes]:
        files = dict(tree(name))
        files["src/App.php"] += b" "
        return files

    before, after = context("web1"), context("web1", files=edited)
    assert frontend.release(before)[0] != frontend.release(after)[0]
    marker = f"file:{frontend.RELEASE_FILE}"
    assert by_key(frontend.desired(before))[marker] != by_key(frontend.desired(after))[marker]


def test_the_release_is_whole_before_the_link_moves(web: Mapping[str, Resource]) -> None:
    target, files = frontend.release(context("web1"))
    link = web["frontend: release"]
    assert link.order is Phase.FILES
    assert all(web[f"file:{target}/{path}"].order is Phase.ACCOUNTS for path in files)


def test_strangers_in_the_release_are_named_and_its_own_files_are_not(web: Mapping[str, Resource]) -> None:
    _, files = frontend.release(context("web1"))
    only = web["frontend:file-*"]
    assert isinstance(only, Only)
    assert {f"file-{path}" for path in files} < only.names
    assert "file-src/DAO" in only.names
    assert "file-www/shell.php" not in only.names


def test_passwords_are_in_one_file_that_plans_do_not_show(web: Mapping[str, Resource]) -> None:
    holders = [item for item in web.values() if isinstance(item, File) and "secret of" in item.content]
    assert [item.path for item in holders] == [frontend.CONFIG]
    config = holders[0]
    assert config.secret
    assert (config.owner, config.group, config.mode) == ("root", php.ACCOUNT, 0o640)


def test_the_application_runs_as_itself_and_cannot_write_itself(web: Mapping[str, Resource]) -> None:
    target, files = frontend.release(context("web1"))
    for path in files:
        item = web[f"file:{target}/{path}"]
        assert isinstance(item, File)
        assert (item.owner, item.mode) == ("root", 0o644)


@pytest.mark.parametrize("seconds", [5, 6, 60, 3600])
def test_the_inner_time_limit_acts_first(seconds: int) -> None:
    ctx = context("web1", frontend={"request_timeout": seconds})
    execution, terminate, read = php.request_limits(ctx)
    assert 0 < execution < terminate < read
    assert terminate == seconds


def test_nginx_and_php_take_the_same_body() -> None:
    ctx = context("web1", frontend={"body_max": "7mb"})
    text = content(by_key(frontend.desired(ctx)), "/etc/nginx/nginx.conf")
    found = re.search(r"client_max_body_size (\d+);", text)
    assert found
    assert found[1] == php.values(ctx)["post_max_size"] == str(7 * 1024**2)


def _wanted_build(wanted: Mapping[str, Resource], key: str) -> str:
    item = wanted[key]
    assert isinstance(item, Parameter)
    assert item.want
    return item.want


@pytest.mark.parametrize(
    ("change", "key", "path"),
    [
        ({"frontend": {"worker_connections": 2048}}, "nginx:build", "/etc/nginx/nginx.conf"),
        ({"frontend": {"fpm_max_children": 17}}, "php:build", "/etc/php/8.2/fpm/pool.d/omegaup.conf"),
    ],
)
def test_another_setting_is_another_build(change: dict[str, Any], key: str, path: str) -> None:
    before, after = by_key(frontend.desired(context("web1"))), by_key(frontend.desired(context("web1", **change)))
    assert _wanted_build(before, key) != _wanted_build(after, key)
    # The file tells the server the very build that is asked for afterwards.
    assert _wanted_build(after, key) in content(after, path)
    same = by_key(frontend.desired(context("web1", **change)))
    assert _wanted_build(same, key) == _wanted_build(after, key)


def test_a_changed_scrape_is_another_build_of_prometheus() -> None:
    before = by_key(monitoring.desired(context("mon1")))
    after = by_key(monitoring.desired(context("mon1", monitoring={"scrape_interval": "20s"})))
    assert _wanted_build(before, "prometheus:build") != _wanted_build(after, "prometheus:build")


def test_every_checked_file_has_a_checker(web: Mapping[str, Resource]) -> None:
    daemon = [
        item
        for item in web.values()
        if isinstance(item, File) and item.path.startswith(("/etc/nginx/", "/etc/php/", "/etc/omegaup/"))
    ]
    assert len(daemon) >= 5
    assert not [item.path for item in daemon if not item.check and not item.absent]


def test_serving_units_are_never_restarted_by_apply(web: Mapping[str, Resource]) -> None:
    units = [item for item in web.values() if isinstance(item, Unit)]
    assert {item.name for item in units} == {"nginx.service", "php8.2-fpm.service"}
    assert all(item.rolling and item.reload_files for item in units)
    reloads = [item for item in web.values() if isinstance(item, Parameter) and "systemctl restart" in item.act]
    assert not reloads


def test_folders_come_before_what_lies_in_them() -> None:
    made: set[str] = set()
    for item in sorted(frontend.desired(context("web1")), key=lambda item: item.order):
        if isinstance(item, Directory):
            made.add(item.path)
        elif isinstance(item, File) and item.path.startswith(f"{frontend.HOME}/"):
            assert str(Path(item.path).parent) in made


@pytest.mark.parametrize(("seconds", "text"), [(15.0, "15s"), (1.5, "1500ms"), (1296000.0, "1296000s")])
def test_spans_are_written_without_loss(seconds: float, text: str) -> None:
    assert monitoring.span(seconds) == text


@pytest.mark.skipif(shutil.which("php") is None, reason="PHP is not installed here")
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_php_reads_back_every_secret(value: str) -> None:
    code = f"echo bin2hex({frontend.literal(value)});"
    read = subprocess.run(["php", "-r", code], capture_output=True, text=True, check=True).stdout
    assert bytes.fromhex(read).decode() == value


@pytest.mark.skipif(shutil.which("php") is None, reason="PHP is not installed here")
def test_the_application_accepts_the_rendered_configuration(tmp_path: Path, web: Mapping[str, Resource]) -> None:
    config = tmp_path / "config.php"
    config.write_text(content(web, frontend.CONFIG))
    source = Path(__file__).resolve().parents[3] / "files/frontend/src/autoload.php"
    code = f"require '{source}'; OmegaUp\\Config::load(); echo OMEGAUP_DB_PASS;"
    environment = {"OMEGAUP_CONFIG": str(config), "PATH": "/usr/bin:/bin"}
    command = ["php", "-d", "display_errors=stderr", "-r", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == AWKWARD
