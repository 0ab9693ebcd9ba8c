from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lab import aptconf
from lab.errors import LabError

DEB822 = """\
# the main archive
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
 trixie
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian
Suites: trixie
Components: main

Types: deb
URIs: http://third.test/debian
Suites: bookworm
Components: stable

Types: deb
URIs: http://third.test/main
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/third.gpg

Types: deb
URIs: http://mirror.test/off
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://mirror.test/src
Suites: bookworm
Components: main
"""


def test_stanzas_of_the_suite_only() -> None:
    assert aptconf.filter_deb822(DEB822, "bookworm") == (
        "Types: deb deb-src\n"
        "URIs: http://mirror.test/debian\n"
        "Suites: bookworm bookworm-updates\n"
        "Components: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    assert "Suites: trixie\n" in aptconf.filter_deb822(DEB822, "trixie")
    assert aptconf.filter_deb822(DEB822, "forky") == ""


def test_lines_of_the_suite_only() -> None:
    text = (
        "deb http://mirror.test/debian bookworm main contrib # the archive\n"
        "deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://mirror.test/s bookworm-security main\n"
        "deb-src http://mirror.test/debian bookworm main\n"
        "# deb http://mirror.test/debian bookworm-backports main\n"
        "deb http://third.test/pgdg bookworm-pgdg main\n"
        "deb http://third.test/docker bookworm stable\n"
        "deb [signed-by=/k/third.gpg] http://third.test/apt bookworm main\n"
    )
    assert aptconf.filter_list(text, "bookworm").splitlines() == [
        "deb http://mirror.test/debian bookworm main contrib # the archive",
        "deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://mirror.test/s bookworm-security main",
    ]


def test_sources_of_a_machine(tmp_path: Path) -> None:
    keyring = tmp_path / "debian-own.gpg"
    keyring.write_text("")
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(f"deb [signed-by={keyring}] http://mirror.test/d bookworm main\n")
    (parts / "debian.sources").write_text(DEB822)
    (parts / "other.list").write_text("deb http://third.test/x stable main\n")
    (parts / "old.list.disabled").write_text("deb http://mirror.test/d bookworm main\n")
    sources = aptconf.read_sources("bookworm", tmp_path)
    assert list(sources.files) == ["sources.list", "debian.sources"]
    assert keyring in sources.keyrings
    assert not aptconf.read_sources("forky", tmp_path).files


def test_settings_about_fetching_only() -> None:
    default = ['Acquire::AllowWeakRepositories "0";', 'APT::Architecture "amd64";']
    fetching = [
        'Acquire::http::Proxy "http://proxy.test:3128";',
        'Acquire::https::mirror.test::Verify-Peer "true";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Retries "3";',
        'Acquire::Languages "none";',
    ]
    others = [
        'DPkg::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb || true";',
        'APT::Update::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb || true";',
        'DPkg::Pre-Install-Pkgs:: "/usr/sbin/dpkg-preconfigure --apt || true";',
        'Dir::Cache::pkgcache "";',
        'Acquire::GzipIndexes "true";',
        'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";',
        'Acquire::http::Proxy-Auto-Detect "/usr/bin/find-proxy";',
        'Acquire::http "";',
        'APT::NeverAutoRemove:: "^linux-image.*";',
    ]
    assert aptconf.filter_conf([*default, *others, *fetching], default) == fetching


@pytest.mark.parametrize(
    ("proxy", "seen"),
    [
        ("http://127.0.0.1:3142", "http://10.9.0.1:3142"),
        ("http://user:pw@localhost:3142/", "http://user:pw@10.9.0.1:3142/"),
        ("http://localhost.test:3142", "http://localhost.test:3142"),
        ("http://proxy.test:3128", "http://proxy.test:3128"),
        ("DIRECT", "DIRECT"),
    ],
)
def test_a_proxy_on_this_machine_is_at_the_gateway(proxy: str, seen: str) -> None:
    (line,) = aptconf.for_host([f'Acquire::http::Proxy "{proxy}";'], "10.9.0.1")
    assert line == f'Acquire::http::Proxy "{seen}";'


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="not Debian")
def test_a_proxy_of_the_environment() -> None:
    conf = aptconf.read_conf("10.9.0.1", {"https_proxy": "http://localhost:8080"})
    assert 'Acquire::https::Proxy "http://10.9.0.1:8080";\n' in conf
    assert "Post-Invoke" not in conf


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "auth.conf.d").mkdir()
    (tmp_path / "auth.conf.d/mirror.conf").write_text("machine mirror.test login me password x\n")
    (tmp_path / "auth.conf.d/backup~").write_text("no")
    assert list(aptconf.read_credentials(tmp_path)) == ["etc/apt/auth.conf.d/mirror.conf"]


def test_certificates(tmp_path: Path) -> None:
    (tmp_path / "own.crt").write_text("PEM")
    (tmp_path / "notes.txt").write_text("")
    assert aptconf.ca_certificates(tmp_path) == {"own.crt": "PEM"}
    assert aptconf.ca_certificates(tmp_path / "none") == {}


def test_name_servers_that_hosts_can_reach(tmp_path: Path) -> None:
    stub, upstream = tmp_path / "stub", tmp_path / "upstream"
    stub.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    upstream.write_text("# by resolved\nnameserver 192.0.2.53\nsearch corp.test\n")
    assert aptconf.resolv_conf({}, [stub, upstream]) == "nameserver 192.0.2.53\nsearch corp.test\n"
    assert aptconf.resolv_conf({"FLEET_LAB_DNS": "192.0.2.1, 192.0.2.2"}, [stub]) == (
        "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"
    )
    with pytest.raises(LabError, match="FLEET_LAB_DNS"):
        aptconf.resolv_conf({}, [stub, tmp_path / "none"])
