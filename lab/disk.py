"""A host's disk: an overlay of its own over the base image, and what makes the host itself.

HOST/host.json says what the disk stands on (image, snapshots) and for which
address it was made; it is written before the directories change, so that an
interrupted change is finished by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import aptconf, image, ssh
from lab.errors import LabError
from lab.paths import HostPaths, LabPaths, cache_root
from lab.spec import LabSpec
from lab.system import read_json, write_atomic

ARCHIVES = "var/cache/apt/archives"
# Plain overlay semantics: a layer may then be stacked, moved and copied.
_OPTIONS = "index=off,redirect_dir=nofollow,metacopy=off,xino=off"


@dataclass
class Record:
    """host.json. `layers` are names of snapshots, topmost first; `pending` is one being taken."""

    image: str
    suite: str
    address: str
    mtu: int
    layers: list[str] = field(default_factory=list)
    pending: str = ""

    @classmethod
    def load(cls, paths: HostPaths) -> Record | None:
        data = read_json(paths.meta)
        return cls(**data) if data else None

    def save(self, paths: HostPaths) -> None:
        write_atomic(paths.meta, json.dumps(asdict(self)))


def options(spec: LabSpec, host: str) -> str:
    """Mount options of the host's root."""
    lab = LabPaths.of(spec)
    paths = lab.host(host)
    record = load(paths)
    lower = ":".join(map(str, _lower(spec, record)))
    return f"{_OPTIONS},lowerdir={lower},upperdir={paths.upper},workdir={paths.work}"


def _lower(spec: LabSpec, record: Record) -> list[Path]:
    """The layers below the host's own, topmost first."""
    snapshots = LabPaths.of(spec).snapshots
    return [*(snapshots / name / "layer" for name in record.layers), image.path_of(record.image)]


def load(paths: HostPaths) -> Record:
    """The host's record. Raises LabError for a host without a disk."""
    record = Record.load(paths)
    if record is None:
        raise LabError(paths.host, "the host has no disk", "", "fleet lab up")
    return record


def ensure(spec: LabSpec, host: str, key: str, mtu: int, layers: list[str] | None = None) -> bool:
    """Make the host's disk unless it has one. True if it was made."""
    lab = LabPaths.of(spec)
    paths = lab.host(host)
    record = Record.load(paths)
    if record is not None:
        finish_snapshot(spec, host, record)
        if not image.path_of(record.image).is_dir():
            raise LabError(
                host,
                f"the base image {record.image} that its disk stands on is gone",
                "",
                f"fleet lab reset {host} (the host becomes bare)",
            )
        if (record.address, record.mtu) != (spec.address(host), mtu):
            record.address, record.mtu = spec.address(host), mtu
            _put(spec, record, host, _network_files(spec, host, mtu))
            record.save(paths)
        return False
    wipe(spec, host)  # what an interrupted attempt left
    record = Record(key, spec.suite, spec.address(host), mtu, list(layers or []))
    paths.base.mkdir(parents=True)
    paths.base.chmod(0o700)  # a disk may hold programs that are setuid: not for this machine's users
    for directory in (paths.upper, paths.work, paths.root):
        directory.mkdir()
    paths.upper.chmod(0o755)
    _put(spec, record, host, _identity_files(spec, host) | _network_files(spec, host, mtu))
    _seed_packages(spec, record, host)
    # Last: a disk without its record counts as none.
    record.save(paths)
    image.note_user(key, paths.meta)
    return True


def finish_snapshot(spec: LabSpec, host: str, record: Record) -> None:
    """Do what a noted snapshot still lacks: it may have been interrupted at any point."""
    if not record.pending:
        return
    lab = LabPaths.of(spec)
    paths = lab.host(host)
    snapshot = lab.snapshots / record.pending
    snapshot.mkdir(parents=True, exist_ok=True)
    snapshot.chmod(0o700)
    write_atomic(
        snapshot / "snapshot.json",
        json.dumps({"image": record.image, "suite": record.suite, "layers": [record.pending, *record.layers]}),
    )
    image.note_user(record.image, snapshot / "snapshot.json")
    if not (snapshot / "layer").exists():
        paths.upper.rename(snapshot / "layer")
    shutil.rmtree(paths.work, ignore_errors=True)
    for directory in (paths.upper, paths.work):
        directory.mkdir(exist_ok=True)
    shutil.copystat(snapshot / "layer", paths.upper)
    record.layers.insert(0, record.pending)
    record.pending = ""
    record.save(paths)


def wipe(spec: LabSpec, host: str) -> None:
    """Remove the host's disk (its keys stay). The host must not run."""
    paths = LabPaths.of(spec).host(host)
    paths.meta.unlink(missing_ok=True)  # first: half a disk must not pass for one
    if paths.base.is_dir():
        shutil.rmtree(paths.base)


# -- the files that make a host itself


@dataclass(frozen=True)
class _File:
    text: str
    mode: int = 0o644
    owner: int = 0


def _identity_files(spec: LabSpec, host: str) -> dict[str, _File]:
    lab = LabPaths.of(spec)
    private, public = ssh.host_key(lab.host(host).host_key)
    authorized = ssh.client_public_key(lab.client_key)
    files = {
        "etc/machine-id": _File(uuid.uuid4().hex + "\n", 0o444),
        "etc/hostname": _File(host + "\n"),
        "etc/hosts": _File(f"127.0.0.1 localhost\n127.0.1.1 {host}\n::1 localhost ip6-localhost ip6-loopback\n"),
        "etc/resolv.conf": _File(aptconf.resolv_conf()),
        "etc/ssh/ssh_host_ed25519_key": _File(private, 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": _File(public),
    }
    for uid, home in image.USERS.values():
        files[f"{home[1:]}/.ssh/authorized_keys"] = _File(authorized, 0o600, uid)
    if conf := aptconf.read_conf(str(spec.gateway)):
        files["etc/apt/apt.conf.d/60lab-fetch"] = _File(conf)
    for path, text in aptconf.read_credentials().items():
        files[path] = _File(text, 0o600)
    return files


def _network_files(spec: LabSpec, host: str, mtu: int) -> dict[str, _File]:
    text = (
        "[Match]\nName=host0\n\n"
        f"[Link]\nMTUBytes={mtu}\n\n"
        "[Network]\n"
        f"Address={ipaddress.ip_interface((spec.address(host), spec.network.prefixlen))}\n"
        f"Gateway={spec.gateway}\n"
        # The lab is IPv4 alone; link-local IPv6 would only delay network-online by its duplicate detection.
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\nLLMNR=no\nMulticastDNS=no\n"
    )
    return {"etc/systemd/network/10-lab.network": _File(text)}


def _put(spec: LabSpec, record: Record, host: str, files: dict[str, _File]) -> None:
    """Write files to the upper layer of a host that does not run."""
    for name, file in files.items():
        target = _directory(spec, record, host, Path(name).parent, file.owner) / Path(name).name
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(file.text)
            os.fchmod(handle.fileno(), file.mode)
            os.fchown(handle.fileno(), file.owner, file.owner)


def _directory(spec: LabSpec, record: Record, host: str, path: Path, owner: int = 0) -> Path:
    """A directory of the upper layer, made with all above it as the layers below have them.

    (A directory of an upper layer hides mode and owner of the one below.)
    """
    upper = LabPaths.of(spec).host(host).upper
    for part in [*reversed(path.parents), path]:
        directory = upper / part
        if directory.is_dir():
            continue
        directory.mkdir()
        if below := next((low / part for low in _lower(spec, record) if (low / part).is_dir()), None):
            shutil.copystat(below, directory)
            os.chown(directory, below.stat().st_uid, below.stat().st_gid)
        else:
            directory.chmod(0o700 if directory.name == ".ssh" else 0o755)
            os.chown(directory, owner, owner)
    return upper / path


# -- downloaded packages are kept: hard links between the cache and the hosts' disks


def _archive_cache(suite: str) -> Path:
    return cache_root() / "archives" / suite


def _seed_packages(spec: LabSpec, record: Record, host: str) -> None:
    """Show the host the packages that hosts downloaded before (apt checks their digests itself)."""
    debs = list(_archive_cache(record.suite).glob("*.deb"))
    if not debs:
        return
    target = _directory(spec, record, host, Path(ARCHIVES))
    for deb in debs:
        try:
            os.link(deb, target / deb.name)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EMLINK):
                return  # another file system: the cache gains too little to be worth copies
            raise


def harvest(spec: LabSpec, limit_mib: int = 4096) -> int:
    """Copy newly downloaded packages from the hosts' disks to the cache; returns how many were new."""
    new = 0
    for base in LabPaths.of(spec).hosts.glob("*"):
        record = Record.load(HostPaths(base.parent.parent, base.name))
        if record is None:
            continue
        cache = _archive_cache(record.suite)
        cache.mkdir(parents=True, exist_ok=True)
        for deb in (base / "upper" / ARCHIVES).glob("*.deb"):
            if (cache / deb.name).exists() or not deb.is_file() or deb.is_symlink():
                continue
            temp = cache / f".{deb.name}.{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(deb, temp)
                temp.rename(cache / deb.name)
                new += 1
    _trim(cache_root() / "archives", limit_mib)
    return new


def _trim(directory: Path, limit_mib: int) -> None:
    """Remove the oldest packages beyond the limit."""
    debs = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in directory.glob("*/*.deb")), reverse=True)
    total = 0
    for _, size, path in debs:
        total += size
        if total > limit_mib * 2**20:
            path.unlink(missing_ok=True)
