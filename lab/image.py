"""The base image: a bare Debian as a cloud image is, made once and shared by all hosts.

Measured on two cores: 40 s with mmdebstrap, 255 MB. Settings that make a lab
quicker and that a real host has not: dpkg does not sync (force-unsafe-io), no
manual pages and documents are unpacked, apt keeps what it downloads, and apt's
daily timers are masked, since they take dpkg's lock at moments of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from shlex import quote

from lab import aptconf
from lab.errors import LabError
from lab.paths import cache_root
from lab.system import locked, processes_in, run, wait_until

RECIPE = 2  # raise it when the recipe changes: images are then made anew
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "iproute2",
    "procps",
    "ca-certificates",
    "iputils-ping",
)
KEEP = 2
USERS = {"root": (0, "/root"), "deploy": (1000, "/home/deploy"), "nosudo": (1001, "/home/nosudo")}

_DPKG = """force-unsafe-io
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/locale/*
"""
_APT = """APT::Keep-Downloaded-Packages "true";
Binary::apt::APT::Keep-Downloaded-Packages "true";
"""
_CUSTOMIZE = """set -eu
root="$1"
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash deploy
chroot "$root" useradd --create-home --uid 1001 --shell /bin/bash nosudo
echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/90-lab"
chmod 0440 "$root/etc/sudoers.d/90-lab"
echo 'PasswordAuthentication no' > "$root/etc/ssh/sshd_config.d/50-lab.conf"
# Each host has keys and an identity of its own, put there before it boots.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf"
rm -f "$root/var/lib/dbus/machine-id"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"  # each host gets the fetching settings of its own gateway
chroot "$root" systemctl enable systemd-networkd.service ssh.service
chroot "$root" systemctl mask apt-daily.timer apt-daily-upgrade.timer console-getty.service
chroot "$root" update-ca-certificates
# Some packages (Java's) put links to manual pages there, whether there are any or not.
mkdir -p "$root/usr/share/man/man1"
"""


def image_key(suite: str, packages: tuple[str, ...], recipe: int, inherited: str) -> str:
    """Name of an image: the suite, and a digest of all that decides its content."""
    digest = hashlib.sha256(json.dumps([suite, packages, recipe, inherited]).encode()).hexdigest()
    return f"{suite}-{digest[:16]}"


def current_key(suite: str) -> str:
    """Key of the image that this machine would make now."""
    sources = aptconf.read_sources(suite)
    inherited = json.dumps([dict(sources.files), aptconf.ca_certificates(), os.environ.get("FLEET_LAB_MIRROR", "")])
    return image_key(suite, PACKAGES, RECIPE, inherited)


def images_dir() -> Path:
    return cache_root() / "images"


def path_of(key: str) -> Path:
    """The image's root directory."""
    return images_dir() / key / "root"


def ensure(suite: str, progress: Callable[[str], None], log: Path) -> str:
    """Make the base image unless it is there; returns its key. Raises LabError with the end of the log."""
    key = current_key(suite)
    if path_of(key).is_dir():
        return key
    with locked(cache_root() / "image.lock", what="base image"):
        if path_of(key).is_dir():
            return key
        sweep()
        temp = images_dir() / f".{key}.{os.getpid()}.tmp"
        temp.mkdir(parents=True)
        progress(f"making the base image {key} (about a minute, once)")
        try:
            _build(suite, temp, log)
            temp.chmod(0o700)  # programs that are setuid in a host are not for this machine's users
            temp.rename(images_dir() / key)
        except BaseException:
            shutil.rmtree(temp, ignore_errors=True)
            raise
        prune(keep=KEEP)
    return key


def sweep_if_idle() -> None:
    """Remove what an interrupted build left, unless one is going on."""
    with contextlib.suppress(LabError), locked(cache_root() / "image.lock", seconds=0):
        sweep()


def sweep() -> None:
    """Remove half-made images, and what still works on them. The caller holds the lock: nobody builds."""
    for stale in images_dir().glob(".*.tmp"):

        def gone(stale: Path = stale) -> bool:
            left = processes_in(stale)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(gone, 20)
        shutil.rmtree(stale, ignore_errors=True)


def _build(suite: str, temp: Path, log: Path) -> None:
    sources = aptconf.read_sources(suite)
    inputs = []
    folder = temp / "input"
    folder.mkdir(mode=0o755)
    for name, text in sources.files.items():
        (folder / name).write_text(text)
        inputs.append(str(folder / name))
    if mirror := os.environ.get("FLEET_LAB_MIRROR"):
        inputs = [mirror]
    files = {
        "lab-dpkg": _DPKG,
        "lab-apt": _APT,
        "fetch.conf": aptconf.read_conf("127.0.0.1"),
        "customize": "#!/bin/sh\n" + _CUSTOMIZE,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "customize").chmod(0o755)
    certificates = aptconf.ca_certificates()
    for name, text in certificates.items():
        (folder / name).write_text(text)
    hooks = [
        *(f"copy-in {quote(str(folder / name))} /usr/local/share/ca-certificates" for name in certificates),
        *(f'install -D -m 644 {key} "$1"{key}' for key in map(quote, map(str, sources.keyrings))),
        f'install -m 644 {folder / "lab-apt"} "$1/etc/apt/apt.conf.d/50lab"',
        f'{folder / "customize"} "$1"',
    ]
    argv = [
        # The build must not outlive the controller, however that ends.
        *("setpriv", "--pdeathsig", "TERM"),
        # A killed one leaves its own files, too: where `sweep` finds them.
        *("env", f"TMPDIR={folder}"),
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
        f"--include={','.join(PACKAGES)}",
        f"--aptopt={folder / 'fetch.conf'}",
        f"--dpkgopt={folder / 'lab-dpkg'}",
        *(f"--customize-hook={hook}" for hook in hooks),
        # The lists stay, so that hosts need not all fetch them before their first install.
        "--skip=cleanup/apt/lists",
        *(suite, str(temp / "root"), *inputs),
    ]
    done = run(argv, check=False)
    shutil.rmtree(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        tail = "\n    ".join(done.stderr.strip().splitlines()[-8:])
        raise LabError(
            "base image",
            f"mmdebstrap failed:\n    {tail}",
            "",
            f"read {log}; apt-get must work on this machine, or FLEET_LAB_MIRROR name a mirror",
        )


# -- who uses an image: a link in its folder to the host's record, for labs of any state root


def note_user(key: str, meta: Path) -> None:
    """Note that a host stands on this image, so that it is not pruned."""
    users = images_dir() / key / "users"
    users.mkdir(exist_ok=True)
    link = users / hashlib.sha256(str(meta).encode()).hexdigest()[:16]
    if not link.is_symlink():
        link.symlink_to(meta)


def prune(keep: int = KEEP) -> list[str]:
    """Remove images but the latest `keep` and those that hosts stand on; returns what was removed."""
    images = sorted(
        (p for p in images_dir().glob("[!.]*") if (p / "root").is_dir()),
        key=lambda p: p.stat().st_mtime,
        reverse=True,
    )
    removed = []
    for image in images[keep:]:
        if any(image.name in link.read_text() for link in (image / "users").glob("*") if link.exists()):
            continue
        doomed = images_dir() / f".{image.name}.tmp"
        image.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        removed.append(image.name)
    return removed
