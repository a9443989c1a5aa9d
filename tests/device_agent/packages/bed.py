"""A private dpkg root, our own packages, and an archive that serves them over HTTP: real apt, real dpkg, no system touched.

A bed is a copy of a template in which `alpha`, `beta`, `conf` and `gamma` are installed at 1.0. The archive has 2.0 of each, a
new package `extra`, and whatever packages a test makes.
"""

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.effects import FileEffects
from device_agent.packages.apt import Apt, AptSettings
from device_agent.packages.boot import PackageBoot
from device_agent.packages.staging import Stager
from device_agent.packages.store import PackageStore
from device_agent.packages.transaction import HostPolicy, Transactions
from device_agent.ports import Slot
from firmware.patch_set import PatchSet, SetPackage, patch_set

CONTROL = """\
Package: {name}
Version: {version}
Architecture: {arch}
Maintainer: Toys <toys@example.org>
Description: a toy
"""
CONF = """\
Dir "{root}/";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::Bin::solvers {{ "/usr/lib/apt/solvers"; }};
Dir::Bin::planners {{ "/usr/lib/apt/planners"; }};
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::http::Proxy "false";
Acquire::Retries "0";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Options {{ "--root={root}"; "--force-script-chrootless"; "--force-unsafe-io"; "--log={root}/var/log/dpkg.log"; }};
"""
FOLDERS = (
    "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial", "var/log/apt", "etc/apt/apt.conf.d", "etc/apt/preferences.d",
    "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d", "usr", "tmp",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Deb:
    """A package file that was built."""

    path: Path
    name: str
    version: str
    stanza: str
    sha256: str

    @property
    def package(self) -> SetPackage:
        return SetPackage(
            name=self.name, arch="all", version=self.version, length=self.path.stat().st_size, sha256=self.sha256
        )


def build_deb(
    folder: Path,
    name: str,
    version: str,
    *,
    fields: str = "",
    scripts: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    conffiles: Sequence[str] = (),
) -> Deb:
    """Build a package of all architectures. `scripts`: maintainer scripts by name, as shell."""
    tree = folder / f"tree-{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = fields if "Installed-Size" in fields else f"Installed-Size: 8\n{fields}"
    control = CONTROL.format(name=name, version=version, arch="all") + fields
    (tree / "DEBIAN" / "control").write_text(control)
    for script, body in (scripts or {}).items():
        (tree / "DEBIAN" / script).write_text(f"#!/bin/sh\nset -e\n{body}\n")
        (tree / "DEBIAN" / script).chmod(0o755)
    if conffiles:
        (tree / "DEBIAN" / "conffiles").write_text("".join(f"/{one}\n" for one in conffiles))
    for at, text in {f"usr/share/{name}/version": version, **(files or {})}.items():
        (tree / at).parent.mkdir(parents=True, exist_ok=True)
        (tree / at).write_text(text)
    path = folder / f"{name}_{version}_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, path], check=True, capture_output=True
    )
    shutil.rmtree(tree)
    return describe_deb(path, name, version, control)


def describe_deb(path: Path, name: str, version: str, control: str) -> Deb:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    stanza = f"{control}Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {sha256}\n"
    return Deb(path=path, name=name, version=version, stanza=stanza, sha256=sha256)


@dataclass(kw_only=True)
class ToyHost:
    """`HostSystem` without a host: what it would be told is noted."""

    boot: int = 1
    running: str = "6.1.0-1"
    newest: str | None = None
    why_restart: str | None = None
    services: list[str] = field(default_factory=list)
    restarts: int = 0
    restarted: list[str] = field(default_factory=list)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    on_hook: Callable[[Sequence[str], Mapping[str, str]], str | None] = lambda argv, facts: None

    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    def kernel(self) -> str:
        return self.running

    def newest_kernel(self) -> str | None:
        return self.newest

    def restart_needed(self) -> str | None:
        return self.why_restart

    def services_to_restart(self) -> list[str]:
        return self.services

    def restart_services(self, names: Sequence[str]) -> None:
        self.restarted += names

    def restart(self) -> None:
        self.restarts += 1

    def hook(self, argv: Sequence[str], facts: Mapping[str, str], *, timeout_s: float) -> str | None:
        self.ran.append(tuple(argv))
        return self.on_hook(argv, facts)


class Bed:
    """One root, one archive, and the parts of the agent that are about packages over them."""

    def __init__(self, folder: Path, debs: Mapping[tuple[str, str], Deb], address: str) -> None:
        self.folder, self.root, self.archive = folder, folder / "root", folder / "archive"
        self.debs = dict(debs)
        self.host, self.policy = ToyHost(), HostPolicy(room_bytes=1 << 20)
        self.lock_s = 5.0
        self.effects = FileEffects()
        self.sleep: Callable[[float], None] = lambda seconds: None
        self.conf = folder / "apt.conf"
        self.conf.write_text(CONF.format(root=self.root))
        (self.root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] {address}/{folder.name}/archive/ ./\n")
        self.open()

    def open(self) -> None:
        """As a new process of the agent would."""
        settings = AptSettings(root=self.root, config=self.conf, lock_s=self.lock_s, install_s=60.0, fetch_s=60.0)
        self.store = PackageStore(self.effects, self.folder / "packages")
        self.system = Apt(settings, self.store.work, sleep=lambda seconds: self.sleep(seconds))
        self.transactions = Transactions(self.store, self.system, self.host, self.policy)
        self.stager, self.boot = Stager(self.transactions), PackageBoot(self.transactions, self.host)

    def offer(self, *debs: Deb, without: Sequence[tuple[str, str]] = ()) -> None:
        """Put packages into the archive, or take them out, and write its index."""
        self.debs |= {(one.name, one.version): one for one in debs}
        for key in without:
            self.debs.pop(key, None)
        self.archive.mkdir(exist_ok=True)
        for path in self.archive.glob("*.deb"):
            path.unlink()
        for one in self.debs.values():
            shutil.copyfile(one.path, self.archive / one.path.name)
        (self.archive / "Packages").write_text("\n".join(one.stanza for one in self.debs.values()))

    def set_of(self, *named: str, install: Sequence[str] = (), downgrades: bool = False) -> PatchSet:
        """A patch set of `name=version`."""
        packages = []
        for text in named:
            name, _, version = text.partition("=")
            one = self.debs[name, version].package
            packages.append(
                SetPackage(
                    name=one.name, arch=one.arch, version=one.version, length=one.length, sha256=one.sha256,
                    install=name in install,
                )
            )  # fmt: skip
        return patch_set(packages, downgrades=downgrades)

    def stage(self, wanted: PatchSet, slot: Slot = Slot.B) -> None:
        self.stager.stage(wanted, slot=slot, document="d" * 64)

    def versions(self) -> dict[str, str]:
        """What is there, by name."""
        return {name: one.version for name, one in self.system.installed().items() if one.is_there}

    def audit(self) -> str:
        """What dpkg itself finds wrong."""
        ran = subprocess.run(
            ["dpkg", f"--root={self.root}", "--audit"],
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        return ran.stdout + ran.stderr

    def apt(self, *argv: str) -> None:
        """What a person does on the host."""
        environment = {**os.environ, "APT_CONFIG": str(self.conf), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        subprocess.run(["apt-get", "-q", "-y", *argv], check=True, capture_output=True, env=environment)

    def mark(self, *argv: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.conf), "LC_ALL": "C"}
        return subprocess.run(["apt-mark", *argv], check=True, capture_output=True, text=True, env=environment).stdout


@dataclass(frozen=True, kw_only=True)
class Beds:
    """Makes beds out of one template."""

    home: Path
    template: Path
    debs: Mapping[tuple[str, str], Deb]
    address: str

    def make(self, name: str) -> Bed:
        folder = self.home / name
        shutil.copytree(self.template, folder / "root")
        bed = Bed(folder, self.debs, self.address)
        bed.offer()
        return bed


@contextmanager
def beds_in(home: Path) -> Iterator[Beds]:
    """Build the packages and the template, and serve all archives below `home`."""
    made = home / "built"
    made.mkdir()
    debs = [build_deb(made, name, version) for name in ("alpha", "gamma") for version in ("1.0", "2.0")]
    debs += [build_deb(made, "beta", version, fields=f"Depends: alpha (>= {version})\n") for version in ("1.0", "2.0")]
    debs += [
        build_deb(made, "conf", version, files={"etc/conf.conf": f"set by {version}\n"}, conffiles=["etc/conf.conf"])
        for version in ("1.0", "2.0")
    ]
    debs.append(build_deb(made, "extra", "1.0"))
    template = home / "template"
    for folder in FOLDERS:
        (template / folder).mkdir(parents=True, exist_ok=True)
    for name in ("status", "available"):
        (template / "var/lib/dpkg" / name).touch()
    first = [str(one.path) for one in debs if one.version == "1.0" and one.name != "extra"]
    subprocess.run(
        ["dpkg", f"--root={template}", "--force-script-chrootless", "--force-unsafe-io", "--install", *first],
        check=True,
        capture_output=True,
    )
    with _served(home) as address:
        yield Beds(home=home, template=template, debs={(one.name, one.version): one for one in debs}, address=address)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said: object) -> None:
        """Say nothing."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
