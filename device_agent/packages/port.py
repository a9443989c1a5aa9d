"""What a package manager has to do for an agent: the port that back ends stand behind.

Nothing here decides. A back end says what is there, what would change, and does what it is told with exactly the files it is
given; it never takes a package from elsewhere while it installs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_agent.packages.plan import Change, Installed, Wanted
from firmware.host_packages import Offered

OnProgress = Callable[[float, str], None]
"""Told a share of the work, 0 to 1, and what is done now."""


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """What a package file says of itself. `installed_bytes`: what its files will take."""

    name: str
    arch: str
    version: str
    installed_bytes: int


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What was installed and doesn't run yet. `restart`: why the whole host has to be restarted for it; None when it needn't.
    `is_certain`: whether a restart that doesn't cure it has failed. `services`: those that run files which are not there any
    more."""

    restart: str | None = None
    is_certain: bool = False
    services: tuple[str, ...] = ()


class PackageSystem(Protocol):
    """One host's packages. Each verb blocks. What passes raises `UnavailableError` (`packages-locked`, `unreachable`), what
    doesn't `RefusedError`."""

    @property
    def native(self) -> str:
        """The architecture of the system itself."""
        ...

    def installed(self) -> dict[str, Installed]:
        """All that is known of, by key."""
        ...

    def heal(self) -> None:
        """Finish what was interrupted, as far as it can be. Raises `RefusedError` (`package-failed`) when something can't."""
        ...

    def refresh(self) -> None:
        """Fetch what the archives offer. Raises `UnavailableError` (`unreachable`)."""
        ...

    def plan_from_archives(self, wanted: Sequence[Wanted], *, downgrade: bool) -> tuple[Change, ...]:
        """What the resolver would do to get there from the archives. Raises `RefusedError` (`package-missing`,
        `plan-differs`)."""
        ...

    def plan(self, files: Sequence[Path], removed: Sequence[Change], *, downgrade: bool) -> tuple[Change, ...]:
        """What installing just these files, and removing those packages, would do. Raises `RefusedError` (`plan-differs`)."""
        ...

    def fetch(self, wanted: Sequence[Wanted], folder: Path, *, is_over: Callable[[], bool]) -> None:
        """Download these packages' files from the archives into the folder, under names of the archive's choice; what the folder
        has already is kept. Raises `RefusedError` (`package-missing`) when an archive has one no more."""
        ...

    def repack(self, one: Wanted, folder: Path) -> None:
        """Make a package file of what is installed. Raises `RefusedError` (`package-missing`) when that can't be done here."""
        ...

    def describe(self, file: Path) -> PackageFile:
        """Raises `RefusedError` (`artifact-changed`) for what is no package file."""
        ...

    def free_bytes(self) -> int:
        """Of the file system where programs are installed."""
        ...

    def install(
        self, files: Sequence[Path], removed: Sequence[Change], *, downgrade: bool, on_progress: OnProgress
    ) -> None:
        """Do what was planned, without asking anybody: changed configuration files stay as they are, nothing that wasn't named is
        removed, and what was installed automatically stays marked so. Raises `RefusedError` (`package-failed`)."""
        ...

    def force(self, files: Sequence[Path], removed: Sequence[Change]) -> None:
        """The same without a resolver, for a system that the resolver gives up on. Raises `RefusedError` (`package-failed`)."""
        ...

    def offered(self) -> list[Offered]:
        """What the archives offered at the last refresh."""
        ...


class HostSystem(Protocol):
    """What else a host has to be asked, or told, around its packages."""

    def boot_id(self) -> str: ...
    def kernel(self) -> str:
        """The release of the kernel that runs."""
        ...

    def newest_kernel(self) -> str | None:
        """The release of the newest kernel that is installed, if that can be told."""
        ...

    def waiting(self) -> Waiting:
        """Look at what waits for a restart."""
        ...

    def restart_services(self, names: Sequence[str]) -> None:
        """Raises `RefusedError` (`package-failed`) naming those that didn't come up."""
        ...

    def restart(self) -> None:
        """Restart the host. Returns; the process is ended from outside soon after."""
        ...

    def hook(self, argv: Sequence[str], facts: Mapping[str, str], *, timeout_s: float) -> str | None:
        """Run an operator's command with facts as `OTARIA_…`; None when it ended well, else what it said."""
        ...
