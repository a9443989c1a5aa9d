"""Emulated boxes and pilots over them, for the tests of appliances."""

import asyncio
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncssh
from msgspec import structs

from device_agent.appliances.course import Course
from device_agent.appliances.course_file import CourseFile
from device_agent.appliances.credentials import Secret
from device_agent.appliances.dialect import Dialect
from device_agent.appliances.dialect_file import built_in
from device_agent.appliances.driver import BoxIdentity, BoxImage
from device_agent.appliances.pilot import Expected, Pilot
from device_agent.appliances.ssh_line import Address, SshLines
from simulator.appliances.box import Box, Times, make_box
from simulator.appliances.image import ImageFacts, digests_of, make_image
from simulator.appliances.server import PASSWORD, USER, BoxServer
from simulator.fakes import MemoryEffects

KINDS = ("sonic", "iosxe", "openwrt", "dual-image")
OLD = {"sonic": "202205.1", "iosxe": "17.09.04", "openwrt": "23.05.3", "dual-image": "1.0"}
NEW = {"sonic": "202311.2", "iosxe": "17.12.01", "openwrt": "23.05.5", "dual-image": "2.0"}
SERIAL = {"sonic": "SN-1", "iosxe": "FOC1", "openwrt": "02:00:00:00:00:01", "dual-image": "V-1"}
KEY = asyncssh.generate_private_key("ssh-ed25519")


_built_in = functools.cache(built_in)


class Quick:
    """Real time, but no wait is longer than a moment."""

    def seconds(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))


def dialect_of(kind: str, **changes: object) -> Dialect:
    """The built-in dialect, impatient."""
    dialect = _built_in(kind)
    install = tuple(structs.replace(one, every_s=0.02) for one in dialect.install)
    session = structs.replace(dialect.session, login_s=5.0)
    standby, back = (
        tuple(structs.replace(one, every_s=0.02) for one in some) for some in (dialect.standby, dialect.standby_back)
    )
    patient = {"session": session, "install": install, "leave_s": 1.0, "return_s": 5.0}
    patient |= {"standby": standby, "standby_back": back}
    return structs.replace(dialect, **(patient | changes))


@dataclass(kw_only=True)
class Stand:
    """One emulated box, and a site agent's directory for it."""

    directory: Path
    kind: str
    box: Box
    server: BoxServer
    dialect: Dialect
    image: BoxImage
    effects: MemoryEffects = field(default_factory=MemoryEffects)

    @property
    def runs(self) -> str:
        """What the box really runs."""
        return self.box.flash.running

    def pilot(self, on_step: Callable[[Course], None] = lambda course: None, **settings: object) -> Pilot:
        """A new site agent's pilot over what an earlier one left."""
        expected = Expected(
            identity=BoxIdentity(serial=SERIAL[self.kind], model="M-1"),
            single_image=settings.get("single_image", "one-way"),  # type: ignore[arg-type]
            compare=settings.get("compare", tuple(sorted(self.dialect.compare))),  # type: ignore[arg-type]
            settle_s=float(settings.get("settle_s", 0.05)),  # type: ignore[arg-type]
        )
        home = self.directory / "agent"
        home.mkdir(exist_ok=True)
        address = self.address()
        if "host_keys" in settings:
            address = replace(address, host_keys=settings["host_keys"])  # type: ignore[arg-type]
        lines = SshLines(address, self.dialect.session)
        return Pilot(lines, self.dialect, expected, CourseFile(self.effects, home), Quick(), on_step=on_step)

    def address(self) -> Address:
        return Address(
            host="127.0.0.1",
            port=self.server.port,
            user=USER,
            host_keys=[self.server.host_key],
            password=lambda: Secret(PASSWORD),
        )


def make_stand(directory: Path, kind: str, *, standby: bool = False, length: int = 200_000, **new: object) -> Stand:
    """A box of this kind that runs `OLD`, and an image of `NEW`; `new` changes what the image does. Start its server."""
    old = make_image(directory / "old.img", ImageFacts(kind=kind, version=OLD[kind]), length=4096)
    facts = ImageFacts(kind=kind, version=str(new.pop("version", NEW[kind])), **new)  # type: ignore[arg-type]
    path = make_image(directory / "new.img", facts, length=length)
    box = make_box(
        directory / "box",
        kind,
        serial=SERIAL[kind],
        model="M-1",
        image=old,
        standby=standby,
        times=Times(boot_s=0.02, minute_s=60.0),
    )
    image = BoxImage(
        path=str(path),
        name=f"{NEW[kind]}.bin",
        version=NEW[kind],
        length=path.stat().st_size,
        digests=digests_of(path),
    )
    return Stand(
        directory=directory,
        kind=kind,
        box=box,
        server=BoxServer(box, KEY),
        dialect=dialect_of(kind),
        image=image,
    )
