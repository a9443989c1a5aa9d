"""The made-up vendor of `dual-image.yaml`: two images, perhaps two supervisors."""

import asyncio
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from simulator.appliances.box import Box, hash_of
from simulator.appliances.dialogue import Terminal, present, restart

_NO_SECOND = "no second supervisor"
_NOT_WRITTEN = "error: the boot block can't be written\n"


async def vendor(box: Box, command: str, terminal: Terminal) -> int:
    """One command of it."""
    words = command.split()
    shows = _SHOWS.get(command)
    changes = _CHANGES.get(words[0]) or _CHANGES.get(" ".join(words[:2]))
    if shows is not None:
        terminal.say(shows(box))
    elif changes is not None:
        if words[0] == "install":
            await asyncio.sleep(box.times.install_s)
        terminal.say(changes(box, words[-1]))
    elif command == "restart":
        if box.faults.restart_refused:
            terminal.say("error: not now\n")
        elif await terminal.ask("sure? ") == "yes":
            restart(box)
    elif command != "pager off":
        terminal.say("error: what?\n")
    return 0


def _chassis(box: Box) -> str:
    flash = box.flash
    return f"serial {flash.serial}\nmodel {flash.model}\nboot {flash.boot}\n"


def _images(box: Box) -> str:
    flash = box.flash
    second = flash.standby if box.standby_up else "booting"
    standby = f"standby {second}\n" if flash.standby else f"{_NO_SECOND}\n"
    installed = "".join(f"image {one}\n" for one in flash.installed)
    return f"running {flash.running}\nnext {flash.once or flash.permanent}\n{standby}{installed}"


def _second(box: Box) -> str:
    if not box.flash.standby:
        return _NO_SECOND
    return f"ready {box.flash.standby}" if box.standby_up else "booting"


_SHOWS: Mapping[str, Callable[[Box], str]] = {
    "show chassis": _chassis,
    "show images": _images,
    "show storage": lambda box: f"free {box.free_bytes()}\n",
    "show configuration": lambda box: "\n".join(box.flash.config) + "\n",
    "show neighbours": lambda box: "\n".join(present(box, box.flash.neighbours)) + "\n",
    "show interfaces": lambda box: "".join(f"{one} up\n" for one in present(box, box.flash.interfaces)),
    "show standby": lambda box: f"{_second(box)}\n",
}


def _remove(box: Box, name: str) -> str:
    box.file(name).unlink(missing_ok=True)
    return ""


def _install(box: Box, name: str) -> str:
    version = box.install(box.file(name))
    return f"installed {version}\n" if version else "error: no image for this box\n"


def _standby(box: Box, version: str) -> str:
    if not box.flash.standby or version not in box.flash.installed:
        return "error: no such supervisor or image\n"
    box.restart_standby(version)
    return ""


def _once(box: Box, version: str) -> str:
    wanted = "" if version == "none" else version
    if box.faults.arm_fails and wanted:
        return _NOT_WRITTEN
    box.keep(replace(box.flash, once=wanted))
    return ""


def _always(box: Box, version: str) -> str:
    if box.faults.commit_refused:
        return _NOT_WRITTEN
    if not box.faults.commit_forgotten:
        box.keep(replace(box.flash, permanent=version))
    return ""


_CHANGES: Mapping[str, Callable[[Box, str], str]] = {
    "hash sha256": lambda box, name: f"{hash_of(box.file(name), 'sha256') or 'error: no such file'}\n",
    "remove": _remove,
    "install": _install,
    "verify": lambda box, version: "whole\n" if box.is_whole(version) else "error: not whole\n",
    "standby upgrade": _standby,
    "boot once": _once,
    "boot always": _always,
}
