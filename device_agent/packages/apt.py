"""Debian and Ubuntu: `PackageSystem` by apt and dpkg.

Whatever is installed comes from files whose hashes were checked. apt is run for that without any archive, index or cache of its
own, so that its resolver knows nothing but what is installed and these files: it can take nothing from elsewhere, and what it
lacks it says instead of fetching it.
"""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from device_agent.packages import apt_index
from device_agent.packages.plan import (
    INSTALLED_FIELDS,
    Change,
    Installed,
    Wanted,
    key_of,
    parse_installed,
    parse_simulation,
)
from device_agent.packages.port import OnProgress, PackageFile
from device_agent.packages.programs import Ran, run_program
from firmware.errors import RefusedError, UnavailableError
from firmware.host_packages import Offered
from firmware.protocol.words import ReasonKind

QUERY_S = 120.0
LOCK_POLL_S = 0.5
_LOCKED = re.compile(
    r"lock[^.]*(?:locked by another process|held by process)|Could not get lock|Unable to lock|Unable to acquire", re.I
)
_NOT_FOUND = re.compile(
    r"was not found|Unable to locate package|no installation candidate|Can't find a source|is not available"
)
_CONFFILES = ("--force-confdef", "--force-confold")


class AptSettings(NamedTuple):
    """`root`: of the system (`/`). `config`: an apt.conf that is read before all others, if any. `lock_s`: how long another
    package manager is waited for. `install_s`: the most that a change may take."""

    root: Path = Path("/")
    config: Path | None = None
    lock_s: float = 600.0
    install_s: float = 7200.0
    fetch_s: float = 7200.0


class Apt:
    """The packages of one Debian system. `work`: a folder of ours, for what apt must have and must not use of the system's."""

    def __init__(self, settings: AptSettings, work: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings, self._work, self._sleep = settings, work, sleep
        self._environment = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true", "LC_ALL": "C"}
        self._environment |= {"APT_LISTCHANGES_FRONTEND": "none", "NEEDRESTART_SUSPEND": "1", "UCF_FORCE_CONFFOLD": "1"}
        if settings.config is not None:
            self._environment["APT_CONFIG"] = str(settings.config)
        self._native = ""
        self._dpkg_options: list[str] | None = None

    @property
    def native(self) -> str:
        """Asked once; a system doesn't change it."""
        if not self._native:
            ran = self._ask("dpkg", "--print-architecture")
            self._native = ran.output.strip() if ran.fine else "amd64"
        return self._native

    def installed(self) -> dict[str, Installed]:
        """All packages of dpkg's database. Raises `RefusedError` (`packages-unsound`)."""
        fields = "\\t".join(f"${{{name}}}" for name in INSTALLED_FIELDS)
        ran = self._ask("dpkg-query", *self._database(), "--show", f"--showformat={fields}\\n")
        if not ran.fine and "no packages found" not in ran.said:
            raise RefusedError(ReasonKind.PACKAGES_UNSOUND, f"The package database can't be read: {ran.said}")
        return parse_installed(ran.output if ran.fine else "", self.native)

    def heal(self) -> None:
        """`dpkg --configure --pending`. Raises `UnavailableError` (`packages-locked`), `RefusedError` (`package-failed`)."""
        ran = self._patiently("dpkg", *self._dpkg(), *_CONFFILES, "--configure", "--pending")
        if not ran.fine:
            raise RefusedError(ReasonKind.PACKAGE_FAILED, f"An interrupted change can't be finished: {ran.said}")

    def refresh(self) -> None:
        """`apt-get update`; any archive that fails counts."""
        ran = self._patiently(
            "apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update", timeout_s=self._settings.fetch_s
        )
        if not ran.fine:
            raise UnavailableError(ReasonKind.UNREACHABLE, f"The package archives can't be read now: {ran.said}")

    def plan_from_archives(self, wanted: Sequence[Wanted], *, downgrade: bool) -> tuple[Change, ...]:
        """Raises `RefusedError` (`package-missing`, `plan-differs`)."""
        specs = [f"{one.name}:{one.arch}={one.version}" for one in wanted if one.version is not None]
        allowed = ("--allow-downgrades",) if downgrade else ()
        ran = self._ask("apt-get", "-s", "-y", *allowed, "install", *map(_unless_all, specs))
        return self._planned(ran)

    def plan(self, files: Sequence[Path], removed: Sequence[Change], *, downgrade: bool) -> tuple[Change, ...]:
        """Raises `RefusedError` (`plan-differs`)."""
        allowed = ("--allow-downgrades",) if downgrade else ()
        ran = self._ask("apt-get", *self._alone(), "-s", "-y", *allowed, "install", *self._named(files, removed))
        return self._planned(ran)

    def fetch(self, wanted: Sequence[Wanted], folder: Path, *, is_over: Callable[[], bool]) -> None:
        """`apt-get download`. Raises `RefusedError` (`package-missing`), `UnavailableError` (`unreachable`, `interrupted`)."""
        specs = [_unless_all(f"{one.name}:{one.arch}={one.version}") for one in wanted]
        ran = self._run(
            "apt-get", "-q", "download", *specs, folder=folder, timeout_s=self._settings.fetch_s, is_over=is_over
        )
        if ran.fine:
            return
        if is_over():
            raise UnavailableError(ReasonKind.INTERRUPTED, "Fetching packages was interrupted; it goes on later.")
        if _NOT_FOUND.search(ran.said) or " 404 " in ran.said:
            raise RefusedError(ReasonKind.PACKAGE_MISSING, f"The archives don't have all of it: {ran.said}")
        raise UnavailableError(ReasonKind.UNREACHABLE, f"Packages can't be fetched now: {ran.said}")

    def repack(self, one: Wanted, folder: Path) -> None:
        """By `dpkg-repack`. Raises `RefusedError` (`package-missing`)."""
        root = () if self._settings.root == Path("/") else (f"--root={self._settings.root}",)
        name = one.name if one.arch in ("all", self.native) else f"{one.name}:{one.arch}"
        ran = self._run("dpkg-repack", *root, name, folder=folder, timeout_s=self._settings.fetch_s)
        if not ran.fine:
            text = f"{name} {one.version} is in no archive any more and can't be packed again here: {ran.said}"
            raise RefusedError(ReasonKind.PACKAGE_MISSING, text)

    def describe(self, file: Path) -> PackageFile:
        """`dpkg-deb --show`."""
        shown = "${Package}\\t${Architecture}\\t${Version}\\t${Installed-Size}"
        ran = self._ask("dpkg-deb", "--show", f"--showformat={shown}", str(file))
        fields = ran.output.strip("\n").split("\t")
        if not ran.fine or len(fields) != 4:
            raise RefusedError(ReasonKind.ARTIFACT_CHANGED, f"{file.name} is no package file: {ran.said}")
        size = int(fields[3]) if fields[3].isdecimal() else 0
        return PackageFile(name=fields[0], arch=fields[1], version=fields[2], installed_bytes=size << 10)

    def free_bytes(self) -> int:
        folder = self._settings.root / "usr"
        return shutil.disk_usage(folder if folder.is_dir() else self._settings.root).free

    def install(
        self, files: Sequence[Path], removed: Sequence[Change], *, downgrade: bool, on_progress: OnProgress
    ) -> None:
        """`apt-get install` of just these files."""
        automatic = self._automatic()
        allowed = ("--allow-downgrades",) if downgrade else ()
        forbidden = () if removed else ("--no-remove",)
        ran = self._patiently(
            "apt-get", *self._alone(), "-q", "-y", *allowed, *forbidden, "-o", "APT::Status-Fd=1", "install",
            *self._named(files, removed), on_line=lambda line: _progress(line, on_progress),
        )  # fmt: skip
        self._mark(automatic)
        if not ran.fine:
            raise RefusedError(ReasonKind.PACKAGE_FAILED, f"The packages could not be installed: {ran.said}")

    def force(self, files: Sequence[Path], removed: Sequence[Change]) -> None:
        """dpkg by itself: unpack all, configure all, purge what is to go."""
        automatic = self._automatic()
        names = [key_of(one.name, one.arch, self.native) for one in removed]
        ran = Ran(code=0, output="", said="")
        if names:
            self._patiently("dpkg", *self._dpkg(), "--force-depends", "--force-remove-reinstreq", "--remove", *names)
        if files:
            ran = self._patiently(
                "dpkg", *self._dpkg(), *_CONFFILES, "--force-downgrade", "--force-breaks", "--install", *map(str, files)
            )
        self._mark(automatic)
        if not ran.fine:
            raise RefusedError(ReasonKind.PACKAGE_FAILED, f"dpkg could not install them either: {ran.said}")

    def offered(self) -> list[Offered]:
        """Each package whose candidate is newer than what is installed. The resolver isn't asked: to simulate the whole upgrade
        takes it seconds."""
        ran = self._ask("apt", "list", "--upgradable")
        lines = apt_index.parse_offers(ran.output)
        if not lines:
            return []
        specs = [_unless_all(f"{one.name}:{one.arch}={one.version}") for one in lines]
        shown = self._ask("apt-cache", "show", "--no-all-versions", *specs)
        return apt_index.with_files(lines, shown.output)

    def _automatic(self) -> set[str]:
        ran = self._ask("apt-mark", "showauto")
        return set(ran.output.split()) if ran.fine else set()

    def _mark(self, automatic: set[str]) -> None:
        """apt takes what is installed by name for wanted; what was there as a dependency stays one."""
        lost = sorted(automatic - self._automatic())
        if lost:
            self._ask("apt-mark", "auto", *lost)

    def _planned(self, ran: Ran) -> tuple[Change, ...]:
        if ran.fine:
            return parse_simulation(ran.output, self.native)
        if _NOT_FOUND.search(f"{ran.output}\n{ran.said}"):
            raise RefusedError(ReasonKind.PACKAGE_MISSING, f"The archives don't have all of it: {ran.said}")
        raise RefusedError(ReasonKind.PLAN_DIFFERS, f"apt can't do just what was signed: {ran.said}")

    def _named(self, files: Sequence[Path], removed: Sequence[Change]) -> list[str]:
        return [*map(str, files), *(f"{key_of(one.name, one.arch, self.native)}-" for one in removed)]

    def _alone(self) -> list[str]:
        """Options that leave apt nothing but what is installed, and the files it is given."""
        for name in ("lists/partial", "archives/partial"):
            (self._work / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        options = {
            "Dir::State::lists": str(self._work / "lists"),
            "Dir::Cache::archives": str(self._work / "archives"),
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _dpkg(self) -> list[str]:
        """Options that apt's configuration gives to dpkg. Asked once."""
        if self._dpkg_options is not None:
            return self._dpkg_options
        found = self._ask("apt-config", "dump", "--format", "%v%n", "DPkg::Options")
        self._dpkg_options = [line for line in found.output.splitlines() if line.startswith("--")]
        return self._dpkg_options

    def _database(self) -> list[str]:
        root = self._settings.root
        return [] if root == Path("/") else [f"--admindir={root / 'var/lib/dpkg'}"]

    def _patiently(
        self, *argv: str, timeout_s: float | None = None, on_line: Callable[[str], None] = lambda line: None
    ) -> Ran:
        """Run what needs the package manager's locks, after whoever has them. Raises `UnavailableError` (`packages-locked`)."""
        wait_s = self._settings.lock_s
        words = argv
        if argv[0] == "apt-get":
            options = [f"DPkg::Lock::Timeout={wait_s:g}", *(f"DPkg::Options::={one}" for one in _CONFFILES)]
            words = (argv[0], *(word for one in options for word in ("-o", one)), *argv[1:])
        waited_s = 0.0
        while True:
            ran = self._run(*words, timeout_s=timeout_s or self._settings.install_s, on_line=on_line)
            if ran.fine or not _LOCKED.search(ran.said):
                return ran
            if waited_s >= wait_s or argv[0] == "apt-get":
                text = f"Another package manager was busy for more than {wait_s:g} s; try again, or end it: {ran.said}"
                raise UnavailableError(ReasonKind.PACKAGES_LOCKED, text)
            self._sleep(LOCK_POLL_S)
            waited_s += LOCK_POLL_S

    def _ask(self, *argv: str) -> Ran:
        """Run what only reads."""
        return run_program(argv, environment=self._environment, folder=Path("/"), timeout_s=QUERY_S, dies_with_us=False)

    def _run(
        self,
        *argv: str,
        timeout_s: float,
        folder: Path | None = None,
        is_over: Callable[[], bool] = lambda: False,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> Ran:
        return run_program(
            argv,
            environment=self._environment,
            folder=folder or Path("/"),
            timeout_s=timeout_s,
            is_over=is_over,
            on_line=on_line,
        )


def _unless_all(spec: str) -> str:
    """apt knows packages for all architectures by their name alone."""
    return spec.replace(":all=", "=", 1)


def _progress(line: str, on_progress: OnProgress) -> None:
    """One line of apt's status: `pmstatus:PACKAGE:PERCENT:TEXT`."""
    if not line.startswith("pmstatus:"):
        return
    parts = line.split(":")
    if len(parts) >= 4:
        share = next((float(part) for part in parts[2:-1] if part.replace(".", "", 1).isdecimal()), None)
        if share is not None:
            on_progress(min(share / 100, 1.0), parts[-1])
