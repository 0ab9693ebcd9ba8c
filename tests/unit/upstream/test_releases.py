"""Releases on a real file system: fetched, refused, unpacked, switched, gone back to. Only the folders are others."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from deploy.converge import parcels
from deploy.errors import FleetError
from deploy.model.resources import Delivery, Parcel
from deploy.model.settings import Artifact
from deploy.roles import upstream_release
from deploy.roles.upstream_release import Release
from tests.unit.upstream.fleets import FLEET, context

PROGRAM = "usr/bin/omegaup-grader"
Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, data: bytes = b"#!/bin/sh\n", mode: int = 0o755) -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def device(name: str) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
    return info, b""


def archive(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Host:
    """A host's folder of releases. What would be root's there is the test's own here."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "opt/backend"
        (self.home / "releases").mkdir(parents=True)

    def offered(self, data: bytes, name: str = "omegaup-backend.tar.xz") -> Artifact:
        """An archive that the controller has sent."""
        digest = hashlib.sha256(data).hexdigest()
        one = Artifact(source=name, sha256=digest)
        Path(upstream_release.parcel(one).path).write_bytes(data)
        return one

    def release(self, *artifacts: Artifact, **changes: object) -> Release:
        return replace(Release("backend", artifacts, (PROGRAM,)), **changes)  # type: ignore[arg-type]

    def run(self, script: str, before: str = "") -> subprocess.CompletedProcess[str]:
        """As a step runs it."""
        return subprocess.run(
            ["/bin/sh"], input=f"{before}\nset -eu\nLC_ALL=C\n{script}\n", text=True, capture_output=True, check=False
        )

    def unpack(self, release: Release, before: str = "") -> subprocess.CompletedProcess[str]:
        return self.run(delivery(release).act, before)

    def switch(self, release: Release) -> None:
        done = self.run(upstream_release.switched(context(FLEET, "app1"), release).act)
        assert done.returncode == 0, done.stdout + done.stderr

    def asked(self, release: Release) -> dict[str, str]:
        done = self.run(upstream_release.query(release).script)
        return dict(line.split("\t") for line in done.stdout.splitlines())

    def left(self) -> list[str]:
        """What lies about beside the releases."""
        return sorted(path.name for path in self.home.iterdir() if path.name.startswith(".")) + sorted(
            path.name for path in self.root.glob("parcel-*")
        )


def delivery(release: Release) -> Delivery:
    found = [one for one in upstream_release.unpacked(context(FLEET, "app1"), release) if isinstance(one, Delivery)]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(upstream_release, "HOME", str(tmp_path / "opt"))
    monkeypatch.setattr(upstream_release, "PARCELS", str(tmp_path / "parcel"))
    return Host(tmp_path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_from_the_controller_to_the_link_and_back(host: Host) -> None:
    first = host.release(host.offered(archive(file(PROGRAM, b"one"))))
    second = host.release(host.offered(archive(file(PROGRAM, b"two"))))
    assert host.asked(first) == {"unpacked": "no", "current": ""}
    assert host.unpack(first).returncode == 0
    # On the host, and nothing that runs has to do with it yet.
    assert host.asked(first) == {"unpacked": first.id, "current": ""}
    host.switch(first)
    program = host.home / "current" / PROGRAM
    assert program.read_bytes() == b"one"
    assert os.access(program, os.X_OK)
    assert (host.home / "release").read_text() == f"{first.id}\n"
    assert host.unpack(second).returncode == 0
    assert program.read_bytes() == b"one"
    host.switch(second)
    assert program.read_bytes() == b"two"
    # The inventory names the first again: it is still there, and only the link moves.
    assert host.asked(first) == {"unpacked": first.id, "current": f"releases/{second.id}"}
    host.switch(first)
    assert program.read_bytes() == b"one"
    assert host.left() == []


def test_a_roll_brings_the_link_back_with_the_file(host: Host) -> None:
    first = host.release(host.offered(archive(file(PROGRAM, b"one"))))
    second = host.release(host.offered(archive(file(PROGRAM, b"two"))))
    for release in (first, second):
        assert host.unpack(release).returncode == 0
        host.switch(release)
    (host.home / "release").write_text(f"{first.id}\n")
    assert host.run(upstream_release.back(second)).returncode == 0
    assert (host.home / "current" / PROGRAM).read_bytes() == b"one"
    (host.home / "release").write_text("0123456789abcdef\n")
    done = host.run(upstream_release.back(second))
    assert done.returncode == 1
    assert "backend 0123456789abcdef is no longer here" in done.stdout
    assert (host.home / "current" / PROGRAM).read_bytes() == b"one"


def test_the_link_is_never_away_while_it_moves(host: Host) -> None:
    pair = [host.release(host.offered(archive(file(PROGRAM, text)))) for text in (b"one", b"two")]
    for release in pair:
        assert host.unpack(release).returncode == 0
    host.switch(pair[0])
    program, stop, seen = host.home / "current" / PROGRAM, threading.Event(), set()

    def watch() -> None:
        while not stop.is_set():
            seen.add(program.read_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for turn in range(20):
        host.switch(pair[(turn + 1) % 2])
    stop.set()
    watcher.join()
    assert seen <= {b"one", b"two"}


def test_as_many_stay_as_are_to(host: Host) -> None:
    kept = FLEET.host("app1").settings.upstream.releases_kept
    made = [host.release(host.offered(archive(file(PROGRAM, b"%d" % number)))) for number in range(kept + 2)]
    for turn, release in enumerate(made):
        assert host.unpack(release).returncode == 0
        # What an archive says of its times is not when it came into use.
        host.switch(release)
        os.utime(release.target, (turn, turn))
    host.switch(made[-1])
    assert {path.name for path in (host.home / "releases").iterdir()} == {one.id for one in made[-kept:]}


def test_by_http(host: Host, served: tuple[Path, str]) -> None:
    folder, url = served
    data = archive(file(PROGRAM, b"one"))
    (folder / "backend.tar.xz").write_bytes(data)
    release = host.release(Artifact(source=f"{url}/backend.tar.xz", sha256=hashlib.sha256(data).hexdigest()))
    assert delivery(release).parcels == ()
    done = host.unpack(release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.asked(release)["unpacked"] == release.id


def test_nothing_is_served_there(host: Host, served: tuple[Path, str]) -> None:
    release = host.release(Artifact(source=f"{served[1]}/none.tar.xz?token=s3cret", sha256="0" * 64))
    done = host.unpack(release)
    assert done.returncode == 1
    # What may be a permission to fetch it is not repeated.
    assert "cannot fetch" in done.stdout
    assert "s3cret" not in done.stdout
    assert "404" in done.stdout
    assert host.left() == []


def test_several_are_unpacked_over_each_other(host: Host) -> None:
    parts = (
        host.offered(archive(file("var/jail/bin/wrapper")), "a"),
        host.offered(archive(file("var/jail/root/etc/hosts", b"x", 0o644), link("var/jail/root/lib", "/usr/lib")), "b"),
    )
    release = host.release(*parts, requires=("var/jail/bin/wrapper", "var/jail/root/etc/hosts"), foreign_links=True)
    done = host.unpack(release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.readlink(f"{release.target}/var/jail/root/lib") == "/usr/lib"
    assert host.release(*reversed(parts)).id != release.id


def test_a_single_file_and_a_link_inside(host: Host) -> None:
    jar = host.release(host.offered(b"jar"), single="libinteractive.jar", requires=("libinteractive.jar",))
    assert host.unpack(jar).returncode == 0
    assert Path(jar.target, "libinteractive.jar").read_bytes() == b"jar"
    site = host.release(
        host.offered(archive(file("server/bootstrap.php"), file("server/config.php", b"theirs"))),
        requires=("server/bootstrap.php",), links={"server/config.php": "/etc/omegaup/frontend/config.php"},
    )  # fmt: skip
    assert host.unpack(site).returncode == 0
    assert os.readlink(f"{site.target}/server/config.php") == "/etc/omegaup/frontend/config.php"


GOOD = file(PROGRAM)
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated": (lambda: archive(file(PROGRAM, os.urandom(100_000)))[:-2000], "can be read to its end"),
    "no archive": (lambda: b"<html>not found</html>", "is no archive"),
    "empty": (lambda: b"", "does not look like a tar archive"),
    "not the right one": (lambda: archive(file("usr/bin/other")), "it has no usr/bin/omegaup-grader"),
    "a name above": (lambda: archive(GOOD, file("../evil")), "names ../evil, which is outside its own folder"),
    "a name above, further in": (lambda: archive(GOOD, file("usr/../../evil")), "outside its own folder"),
    "an absolute name": (lambda: archive(GOOD, file("/tmp/evil")), "names /tmp/evil"),
    "a link that leads out": (lambda: archive(GOOD, link("etc", "/etc")), "its link etc leads out of its own folder"),
    "a link that leads up": (lambda: archive(GOOD, link("usr/up", "../../up")), "its link usr/up leads out"),
    "a file through a link": (lambda: archive(GOOD, link("out", "/tmp"), file("out/evil")), "cannot be unpacked"),
    "a hard link to what is outside": (lambda: archive(GOOD, link("pw", "/etc/passwd", tarfile.LNKTYPE)), "cannot be"),
    "a device": (lambda: archive(GOOD, device("null")), "it holds null, which is neither file nor folder nor link"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_leaves_nothing_behind(host: Host, name: str) -> None:
    make, words = BAD[name]
    before = host.release(host.offered(archive(file(PROGRAM, b"before"))))
    assert host.unpack(before).returncode == 0
    host.switch(before)
    bad = host.release(host.offered(make()))
    done = host.unpack(bad)
    if name == "a device" and os.geteuid() != 0:
        assert done.returncode == 1
    else:
        assert (done.returncode, words in done.stdout) == (1, True), done.stdout + done.stderr
    assert host.asked(bad) == {"unpacked": "no", "current": f"releases/{before.id}"}
    assert (host.home / "current" / PROGRAM).read_bytes() == b"before"
    assert host.left() == []
    assert not Path("/tmp/evil").exists()
    assert not (host.root / "evil").exists()


def test_another_sha256(host: Host) -> None:
    one = host.offered(archive(GOOD))
    Path(upstream_release.parcel(one).path).write_bytes(archive(file(PROGRAM, b"other")))
    done = host.unpack(host.release(one))
    assert done.returncode == 1
    assert f"not {one.sha256}: it is another file, or was cut short" in done.stdout
    assert host.left() == []


def test_nothing_came_from_the_controller(host: Host) -> None:
    done = host.unpack(host.release(Artifact(source="backend.tar.xz", sha256="1" * 64)))
    assert done.returncode == 1
    assert "did not come from the controller" in done.stdout


def test_no_program_gets_more_rights_than_its_caller(host: Host) -> None:
    release = host.release(host.offered(archive(file(PROGRAM, mode=0o6777))))
    assert host.unpack(release).returncode == 0
    assert Path(release.target, PROGRAM).stat().st_mode & 0o7022 == 0


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root for a small file system")
def test_a_full_disk(host: Host) -> None:
    big = archive(GOOD, file("usr/share/data", os.urandom(300_000), 0o644))
    release = host.release(host.offered(big))
    script = (
        f"mount -t tmpfs -o size=400k tmpfs {host.home}\nmkdir {host.home}/releases\n"
        f"(set -eu\n{delivery(release).act}\n)\ncode=$?\nls -A {host.home} {host.home}/releases\nexit $code\n"
    )
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh"], input=script, text=True, capture_output=True, check=False,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"cannot be unpacked, with \d+ KiB free: tar: usr/share/data: ", done.stdout)
    assert done.stdout.splitlines()[-4:] == [f"{host.home}:", "releases", "", f"{host.home}/releases:"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."}
)


@hypothesis(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, unique=True, max_size=4), st.binary(max_size=40))
def test_whatever_its_files_are_called(host: Host, names: list[str], data: bytes) -> None:
    release = host.release(host.offered(archive(GOOD, *(file(f"data/{name}", data, 0o644) for name in names))))
    done = host.unpack(release)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(release.target, "data")
    assert {path.name for path in folder.iterdir()} == set(names) if names else not folder.exists()
    assert all((folder / name).read_bytes() == data for name in names)
    shutil.rmtree(release.target)


def test_the_controllers_file_is_looked_at_before_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases/site.tar.xz").write_bytes(b"x")
    right = hashlib.sha256(b"x").hexdigest()
    good = Parcel("releases/site.tar.xz", right, "/var/lib/fleet/x")
    assert parcels.found(tmp_path, "release frontend: unpacked", good) == tmp_path / good.source
    with pytest.raises(FleetError, match=rf"site\.tar\.xz with sha256 {right}, expected {'2' * 64}"):
        parcels.found(tmp_path, "release frontend: unpacked", replace(good, sha256="2" * 64))
    with pytest.raises(FleetError, match=r"other\.tar\.xz: No such file or directory"):
        parcels.found(tmp_path, "release frontend: unpacked", replace(good, source="releases/other.tar.xz"))
    with pytest.raises(FleetError, match="Is a directory"):
        parcels.found(tmp_path, "release frontend: unpacked", replace(good, source="releases"))
