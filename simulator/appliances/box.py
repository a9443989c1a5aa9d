"""One emulated box: what is on its flash, what it runs, and how it boots. The flash is a folder; all else dies with a boot.

Two images at most are installed. A boot takes the one that was asked for once, else the permanent one; an image that does not
boot costs the time of a boot, and then the permanent one is taken. A box whose permanent image does not boot is dead.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from simulator.appliances.faults import Faults
from simulator.appliances.image import ImageFacts, read_image

CAPACITY_BYTES = 64 << 20


class Flash(Struct, frozen=True, kw_only=True):
    """What outlives a boot. `installed`: file names of images by version. `on_trial`: this boot is one of an
    image that is not permanent. `uncommitted`: an activation from which the box goes back to
    `permanent` at the next boot, or after `revert_min` minutes."""

    kind: str
    serial: str
    model: str
    permanent: str
    installed: dict[str, str]
    once: str = ""
    on_trial: bool = False
    uncommitted: bool = False
    revert_min: float = 0.0
    boots: int = 0
    running: str = ""
    boot: str = ""
    standby: str = ""
    config: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds that things take: a boot, unpacking an image, and one minute of the box's own timers."""

    boot_s: float = 0.05
    install_s: float = 0.0
    minute_s: float = 60.0


@dataclass(kw_only=True)
class Box:
    """A box in a folder. `on_down`, `on_up`: what the SSH server does then. `standby_up`: whether the second supervisor runs,
    where there is one; `both_down`: whether the box was ever told to restart while it did not."""

    directory: Path
    times: Times = field(default_factory=Times)
    faults: Faults = field(default_factory=Faults)
    alive: bool = False
    standby_up: bool = True
    both_down: bool = False
    on_down: Callable[[], Awaitable[None]] | None = None
    on_up: Callable[[], Awaitable[None]] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _timer: asyncio.Task[None] | None = None

    @property
    def flash(self) -> Flash:
        return msgspec.json.decode((self.directory / "flash.json").read_bytes(), type=Flash)

    def keep(self, flash: Flash) -> None:
        """Durably change what is on the flash."""
        temporary = self.directory / "flash.new"
        temporary.write_bytes(msgspec.json.encode(flash))
        temporary.replace(self.directory / "flash.json")

    @property
    def files(self) -> Path:
        """The file system that uploads go to."""
        return self.directory / "files"

    def file(self, name: str) -> Path:
        """A file by the box's own path; never outside."""
        plain = os.path.normpath("/" + name.replace("flash:", "/flash/")).lstrip("/")
        return self.files / plain

    @property
    def running(self) -> ImageFacts:
        """The image that runs."""
        flash = self.flash
        found = read_image(self.directory / "images" / flash.installed[flash.running])
        return found or ImageFacts(kind=flash.kind, version=flash.running)

    def free_bytes(self) -> int:
        """What the flash still takes."""
        used = sum(path.stat().st_size for path in self.files.rglob("*") if path.is_file())
        return 1000 if self.faults.full else max(0, CAPACITY_BYTES - used)

    def install(self, path: Path) -> str | None:
        """Unpack an image beside the running one; its version, or None when it is none for this kind of box."""
        facts, flash = read_image(path), self.flash
        if facts is None or facts.kind != flash.kind or self.faults.install_fails:
            return None
        name = f"{facts.version}.img"
        shutil.copyfile(path, self.directory / "images" / name)
        if self.faults.half_install:
            os.truncate(self.directory / "images" / name, path.stat().st_size // 2)
        kept = {
            version: file for version, file in flash.installed.items() if version in (flash.running, flash.permanent)
        }
        self.keep(replace(flash, installed={**kept, facts.version: name}))
        return facts.version

    def is_whole(self, version: str) -> bool:
        """Whether all of an installed image is there."""
        name = self.flash.installed.get(version)
        if name is None:
            return False
        return not self.faults.half_install and read_image(self.directory / "images" / name) is not None

    def spawn(self, work: Awaitable[None]) -> None:
        """Something that runs on the box on its own, and dies with a boot."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def restart(self) -> None:
        """Go down now and come up again, on a task that outlives the session which asked for it."""
        if self.alive and not self.faults.restart_forgotten:
            self.both_down |= not self.standby_up
            self._reboot = asyncio.ensure_future(self._restart())

    def restart_standby(self, version: str) -> None:
        """Restart the second supervisor into this image; where that does not boot, it comes back with the one it had."""

        async def boot() -> None:
            await asyncio.sleep(self.times.boot_s)
            image = read_image(self.directory / "images" / self.flash.installed[version])
            if image is not None and image.boots and not self.faults.standby_fails:
                self.keep(replace(self.flash, standby=version))
            self.standby_up = True

        self.standby_up = False
        self.spawn(boot())

    def _revert_after(self, minutes: float) -> None:
        """Go back by itself unless it is committed until then."""

        async def revert() -> None:
            await asyncio.sleep(minutes * self.times.minute_s)
            if self.flash.uncommitted:
                self.restart()

        self._timer = asyncio.ensure_future(revert())

    async def power_on(self) -> None:
        """Boot what is on the flash."""
        await self._boot()

    async def power_off(self) -> None:
        """Everything that is not on the flash is gone."""
        self._reboot = None
        await self._down()

    async def _restart(self) -> None:
        await self._down()
        if not self.faults.stays_down:
            await self._boot()

    async def _down(self) -> None:
        self.alive = False
        for task in (*self._tasks, self._timer):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._timer = None
        if self.on_down is not None:
            await self.on_down()
        with contextlib.suppress(FileNotFoundError):
            for left in (self.files / "tmp").iterdir():
                left.unlink()

    async def _boot(self) -> None:
        await asyncio.sleep(self.times.boot_s)
        flash = self.flash
        wanted = flash.once or flash.permanent
        goes_back = not flash.once and flash.uncommitted
        flash = replace(flash, once="", boots=flash.boots + 1, boot=str(uuid.uuid4()))
        image = read_image(self.directory / "images" / flash.installed[wanted])
        if image is None or not image.boots or image.version == self.faults.wont_boot:
            self.keep(replace(flash, running=flash.permanent, uncommitted=False))
            if wanted == flash.permanent:
                return  # dead
            await self._boot()
            return
        flash = replace(
            flash, running=wanted, on_trial=wanted != flash.permanent, uncommitted=flash.uncommitted and not goes_back
        )
        self.keep(replace(flash, config=(*flash.config, *(one for one in image.rewrites if one not in flash.config))))
        self.alive = self.standby_up = True
        if self.flash.uncommitted:
            self._revert_after(self.flash.revert_min)
        if self.on_up is not None:
            await self.on_up()

    _reboot: "asyncio.Future[None] | None" = None


def make_box(
    directory: Path,
    kind: str,
    *,
    serial: str,
    model: str,
    image: Path,
    standby: bool = False,
    times: Times | None = None,
) -> Box:
    """A new box with one image."""
    facts = read_image(image)
    assert facts is not None, f"{image} is no image"  # noqa: S101 (of whoever makes boxes)
    for name in ("images", "files/tmp", "files/host", "files/flash", "files/images"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, directory / "images" / f"{facts.version}.img")
    box = Box(directory=directory, times=times or Times())
    box.keep(
        Flash(
            kind=kind,
            serial=serial,
            model=model,
            permanent=facts.version,
            running=facts.version,
            installed={facts.version: f"{facts.version}.img"},
            boot=str(uuid.uuid4()),
            standby=facts.version if standby else "",
            config=("hostname box", "interface eth0", " description uplink", "interface eth1", " description office"),
            neighbours=("eth0 core-a", "eth1 access-1"),
            interfaces=("eth0", "eth1"),
        )
    )
    return box


def hash_of(path: Path, algorithm: str) -> str | None:
    """Hex digits, or None where there is no file."""
    try:
        return hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return None
