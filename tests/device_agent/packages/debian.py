"""A real Debian, with the real security updates that it lacks, in namespaces of its own.

It is made by `mmdebstrap` of the archives that this machine's own apt is set to, and only of the release's main suite: whatever
the security suite has had since is pending on it. What was made is kept in the cache, under a hash of all that it was made of; a
test changes a copy. Inside, the mounts, the processes and the host's name are its own; the network is this machine's, and so are
the folders that are lent to it. Nothing stays mounted: all its mounts end with its first process.
"""

import fcntl
import hashlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from device_agent.boot.leash import leashed

PROJECT = Path(__file__).parents[3]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = ("mmdebstrap", "unshare", "nsenter", "chroot", "apt-get")
NAMESPACES = ("unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child")
PACKAGES = ("ca-certificates", "openssl", "libexpat1", "libffi8", "libsqlite3-0", "libbz2-1.0", "needrestart", "cron")
"""Besides the least that a Debian has: what the agent's Python stands on, what has security updates at times, and a daemon."""
OPTIONS = """
--variant=minbase --quiet --dpkgopt=force-unsafe-io --dpkgopt=path-exclude=/usr/share/doc/*
--dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/locale/*
"""
MOUNTS = """
set -e
root=$1; shift
hostname otaria-host
while [ $# -gt 0 ]; do
    mkdir -p "$root$2"
    mount --bind "$2" "$root$2"
    mount -o "remount,bind,$1" "$root$2"
    shift 2
done
cp /etc/resolv.conf /etc/hosts "$root/etc"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
exec chroot "$root" sh -c 'echo ready; exec sleep infinity'
"""
FORMAT = "$(RELEASE) $(REPO_URI) $(COMPONENT)"
INSTALLED = "${binary:Package} ${Version} ${db:Status-Abbrev}\\n"


class Archive(NamedTuple):
    """A suite of an archive, as apt on this machine is set to it."""

    release: str
    uri: str
    component: str

    @property
    def line(self) -> str:
        """Of a `sources.list`."""
        return f"deb {self.uri} {self.release} {self.component}"


@dataclass(frozen=True, kw_only=True)
class Debian:
    """One that runs. `pid`: its first process, seen from outside."""

    root: Path
    pid: int

    @property
    def enter(self) -> list[str]:
        """The words before a command that run it inside, as in the project's folder on this machine."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--root", "--wd=/"]
        return [*inside, "env", "-i", f"--chdir={PROJECT}", f"PATH={PATH}", "LC_ALL=C.UTF-8", f"PYTHONPATH={PROJECT}"]

    def run(self, *argv: str) -> str:
        """What a command inside prints. Raises `AssertionError` with what it said when it fails."""
        done = subprocess.run([*self.enter, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
        return done.stdout

    def packages(self) -> dict[str, tuple[str, str]]:
        """Version and status of everything in dpkg's database, by dpkg itself."""
        lines = self.run("dpkg-query", "--show", f"--showformat={INSTALLED}").splitlines()
        return {name: (version, status) for name, version, status in (line.split() for line in lines)}

    def write(self, path: str, text: str) -> None:
        """A program of the host's owner."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)


def lacking() -> str | None:
    """Why no Debian can be made here; None when one can, as far as can be told without the network."""
    missing = [name for name in TOOLS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} is not here; deploy/test-tools.sh installs it"
    done = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"namespaces need root and its rights: {done.stderr.strip()[-200:]}"


@contextmanager
def debian_in(folder: Path, lent: Sequence[Path] = ()) -> Iterator[Debian]:
    """A fresh one, whose root is below `folder`; `lent` are folders of this machine that it sees at their own place. Skips
    the test where there is no archive."""
    main, security = archives()
    root = folder / "debian"
    try:
        _run("cp", "-a", str(_base(main)), str(root))
        (root / "etc/apt/sources.list").write_text(f"{main.line}\n{security.line}\n")
        with _running(root, lent) as pid:
            yield Debian(root=root, pid=pid)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def archives() -> tuple[Archive, Archive]:
    """The main suite of this machine's release, and its security suite."""
    release = _release()
    listed = _run("apt-get", "indextargets", "--format", FORMAT, "Identifier: Packages").splitlines()
    found = {one.release: one for one in (Archive(*line.split()) for line in listed) if one.component == "main"}
    try:
        return found[release], found[f"{release}-security"]
    except KeyError as error:
        pytest.skip(f"apt on this machine is set to no archive of {error.args[0]}")


def _release() -> str:
    fields = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return fields.get("VERSION_CODENAME", "").strip('"')


def _needed() -> list[Path]:
    """What the agent needs of this machine: the project, its environment, and the Python of that."""
    places = {PROJECT, Path(sys.prefix).resolve(), Path(sys.base_prefix)}
    return sorted(place for place in places if place != Path("/usr"))


def _base(archive: Archive) -> Path:
    """The root that is copied, made if need be. A new state of the suite makes a new one: archives forget old versions."""
    packages = [*PACKAGES, *(["python3"] if Path(sys.base_prefix) == Path("/usr") else [])]
    recipe = f"{archive.line} {OPTIONS} {packages} {_state_of(archive)}"
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for old in cache.glob("base-*"):
                shutil.rmtree(old)
            new = cache / "new"
            shutil.rmtree(new, ignore_errors=True)
            _run(
                "mmdebstrap",
                *OPTIONS.split(),
                f"--include={','.join(packages)}",
                archive.release,
                str(new),
                archive.line,
            )
            (new / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
            (new / "usr/sbin/policy-rc.d").chmod(0o755)
            new.rename(path)
    return path


def _state_of(archive: Archive) -> str:
    """A hash of what the suite's owner signed last."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "InRelease"
        words = (
            "/usr/lib/apt/apt-helper",
            "download-file",
            f"{archive.uri}dists/{archive.release}/InRelease",
            str(out),
        )
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not out.exists():
            pytest.skip(f"the archive of {archive.release} can't be reached")
        return hashlib.sha256(out.read_bytes()).hexdigest()


def _cache() -> Path:
    given = os.environ.get("OTARIA_CACHE")
    home = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "otaria"
    return home / "debian"


@contextmanager
def _running(root: Path, lent: Sequence[Path]) -> Iterator[int]:
    """The first process of new namespaces in which `root` is the root; its number outside. All of it ends with this."""
    lends = [*(("ro", str(path)) for path in _needed()), *(("rw", str(path)) for path in lent)]
    words = [*NAMESPACES, "sh", "-c", MOUNTS, "sh", str(root), *(word for pair in lends for word in pair)]
    holder = subprocess.Popen(leashed(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        ready = holder.stdout.readline()
        assert ready == b"ready\n", holder.communicate()[1].decode(errors="replace")[-500:]
        pid = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])
        first = os.pidfd_open(pid)
        try:
            yield pid
        finally:
            holder.kill()
            select.select([first], [], [])
            os.close(first)
    finally:
        holder.kill()
        holder.communicate()


def _run(*argv: str) -> str:
    environment = {**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()[-1000:]}"
    return done.stdout
