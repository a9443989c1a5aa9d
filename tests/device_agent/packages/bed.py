"""A private dpkg root, our own packages, and an archive that serves them over HTTP: real apt, real dpkg, no system touched.

A bed is a copy of a template in which `alpha`, `beta`, `conf` and `gamma` are installed at 1.0. The archive has 2.0 of each, a
new package `extra`, and whatever packages a test makes.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.drain.port import Drainer
from device_agent.effects import FileEffects
from device_agent.packages.apt import Apt, AptSettings
from device_agent.packages.boot import PackageBoot
from device_agent.packages.port import Waiting
from device_agent.packages.staging import Stager
from device_agent.packages.store import PackageStore
from device_agent.packages.transaction import HostPolicy, Transactions
from device_agent.ports import Slot
from firmware.patch_set import PatchSet, SetPackage, patch_set
from simulator.debs import Deb, apt_conf, build_deb, fill_archive, make_root, served


@dataclass(kw_only=True)
class ToyHost:
    """`HostSystem` without a host: what it would be told is noted."""

    boot: int = 1
    running: str = "6.1.0-1"
    newest: str | None = None
    why_restart: str | None = None
    is_certain: bool = True
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

    def waiting(self) -> Waiting:
        return Waiting(restart=self.why_restart, is_certain=self.is_certain, services=tuple(self.services))

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
        self.drainer: Drainer | None = None
        self.sleep: Callable[[float], None] = lambda seconds: None
        self.conf = folder / "apt.conf"
        apt_conf(self.conf, self.root, f"{address}/{folder.name}/archive")
        self.open()

    def open(self) -> None:
        """As a new process of the agent would."""
        settings = AptSettings(root=self.root, config=self.conf, lock_s=self.lock_s, install_s=60.0, fetch_s=60.0)
        self.store = PackageStore(self.effects, self.folder / "packages")
        self.system = Apt(settings, self.store.work, sleep=lambda seconds: self.sleep(seconds))
        self.transactions = Transactions(self.store, self.system, self.host, self.policy, self.drainer)
        self.stager, self.boot = Stager(self.transactions), PackageBoot(self.transactions, self.host)

    def offer(self, *debs: Deb, without: Sequence[tuple[str, str]] = ()) -> None:
        """Put packages into the archive, or take them out, and write its index."""
        self.debs |= {(one.name, one.version): one for one in debs}
        for key in without:
            self.debs.pop(key, None)
        fill_archive(self.archive, self.debs.values())

    def set_of(self, *named: str, install: Sequence[str] = (), downgrades: bool = False) -> PatchSet:
        """A patch set of `name=version`."""
        packages = []
        for text in named:
            name, _, version = text.partition("=")
            one = self.debs[name, version]
            length = one.path.stat().st_size
            packages.append(
                SetPackage(
                    name=one.name, arch="all", version=one.version, length=length, sha256=one.sha256,
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
    make_root(template, [one for one in debs if one.version == "1.0" and one.name != "extra"])
    with served(home) as address:
        yield Beds(home=home, template=template, debs={(one.name, one.version): one for one in debs}, address=address)
