"""IOS-XE in install mode, as its public documentation shows its commands."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from simulator.appliances.box import Box, hash_of
from simulator.appliances.dialogue import Terminal, present, restart

_LEGEND = (
    "[ Switch 1 ] Installed Package(s) Information:\n"
    "State (St): I - Inactive, U - Activated & Uncommitted,\n"
    "            C - Activated & Committed, D - Deactivated & Uncommitted\n"
)
_RULE = "-" * 80 + "\n"
_PROCEED = "This operation may require a reload of the system. Do you want to proceed? [y/n]"


async def iosxe(box: Box, command: str, terminal: Terminal) -> int:
    """One command of an IOS-XE switch."""
    shows = next((show for begin, show in _SHOWS.items() if command.startswith(begin)), None)
    words = command.split()
    if shows is not None:
        shows(box, words, terminal)
    elif words[0] == "install" and words[1] in _INSTALLS:
        terminal.say(f"install_{words[1]}: START Mon Jan  1 00:00:00 UTC 2024\n")
        await _INSTALLS[words[1]](box, words[1:], terminal)
    elif words[0] != "terminal":
        terminal.say("          ^\n% Invalid input detected at '^' marker.\n\n")
    return 0


def _version(box: Box, _words: list[str], terminal: Terminal) -> None:
    flash = box.flash
    terminal.say(f"Cisco IOS XE Software, Version {flash.running}\n\nSystem restarted at {flash.boot}\n")
    terminal.say(f"Model Number                       : {flash.model}\n")
    terminal.say(f"System Serial Number               : {flash.serial}\n")


def _config(box: Box, _words: list[str], terminal: Terminal) -> None:
    terminal.say("Building configuration...\n\nCurrent configuration : 5120 bytes\n!\n")
    terminal.say(f"! Last configuration change at {box.flash.boot}\nversion 17\n")
    terminal.say("\n".join(box.flash.config) + "\nend\n")


def _storage(box: Box, _words: list[str], terminal: Terminal) -> None:
    terminal.say(f"11353194496 bytes total ({box.free_bytes()} bytes free)\n")


def _verify(box: Box, words: list[str], terminal: Terminal) -> None:
    digest = hash_of(box.file(words[-1]), "sha512")
    terminal.say(f"......Done!\nverify /sha512 ({words[-1]}) = {digest}\n" if digest else "%Error verifying file\n")


def _delete(box: Box, words: list[str], _terminal: Terminal) -> None:
    box.file(words[-1]).unlink(missing_ok=True)


def _neighbours(box: Box, _words: list[str], terminal: Terminal) -> None:
    terminal.say("Device ID        Local Intrfce     Holdtme    Capability  Platform  Port ID\n")
    for one in present(box, box.flash.neighbours):
        port, name = one.split()
        terminal.say(f"{name}           Gig {port}     150       R S I  C9300     Gig 1/0/1\n")


def _interfaces(box: Box, _words: list[str], terminal: Terminal) -> None:
    for one in box.flash.interfaces:
        state = "up" if one in present(box, box.flash.interfaces) else "down"
        terminal.say(f"{one}     192.0.2.1    YES NVRAM  {state}     {state}\n")


def _routes(_box: Box, _words: list[str], terminal: Terminal) -> None:
    terminal.say("IP routing table name is default (0x0)\nRoute Source    Networks    Subnets\n")
    terminal.say("connected       0           2\nstatic          1           0\n")


def _summary(box: Box, _words: list[str], terminal: Terminal) -> None:
    flash = box.flash
    terminal.say(_LEGEND + _RULE + "Type  St   Filename/Version\n" + _RULE)
    for version in sorted(flash.installed):
        if version == flash.running:
            state = "U" if flash.uncommitted else "C"
        else:
            state = "D" if flash.uncommitted and version == flash.permanent else "I"
        terminal.say(f"IMG   {state}    {version}.0.1\n")
    timer = "active on install_activate, time before rollback - 01:59:00" if flash.uncommitted else "inactive"
    terminal.say(f"\n{_RULE}Auto abort timer: {timer}\n{_RULE}")


_SHOWS: Mapping[str, Callable[[Box, list[str], Terminal], None]] = {
    "show version": _version,
    "show install summary": _summary,
    "show running-config": _config,
    "dir flash:": _storage,
    "verify /sha512 ": _verify,
    "delete /force ": _delete,
    "show cdp neighbors": _neighbours,
    "show ip interface brief": _interfaces,
    "show ip route summary": _routes,
}


async def _add(box: Box, words: list[str], terminal: Terminal) -> None:
    await asyncio.sleep(box.times.install_s)
    version = box.install(box.file(words[2]))
    if version is None or not box.is_whole(version):
        terminal.say("FAILED: install_add : the image does not fit this platform\n")
    else:
        terminal.say(f"SUCCESS: install_add {words[2]} Mon Jan  1 00:00:10 UTC 2024\n")


async def _activate(box: Box, words: list[str], terminal: Terminal) -> None:
    flash, faults = box.flash, box.faults
    new = next((version for version in flash.installed if version != flash.running), None)
    answer = await terminal.ask(_PROCEED)
    if new is None or answer != "y" or faults.restart_refused:
        terminal.say("FAILED: install_activate : System configuration has been modified. Save and resubmit.\n")
        return
    terminal.say("SUCCESS: install_activate Mon Jan  1 00:01:00 UTC 2024\n")
    if not faults.restart_forgotten:
        box.keep(replace(flash, once=new, uncommitted=True, revert_min=float(words[2])))
    restart(box)


async def _commit(box: Box, _words: list[str], terminal: Terminal) -> None:
    flash, faults = box.flash, box.faults
    if faults.commit_refused:
        terminal.say("FAILED: install_commit : the boot configuration can't be written\n")
    elif not flash.uncommitted:
        terminal.say("install_commit: already committed\n")
    else:
        if not faults.commit_forgotten:
            box.keep(replace(flash, permanent=flash.running, uncommitted=False))
        terminal.say("SUCCESS: install_commit Mon Jan  1 00:02:00 UTC 2024\n")


async def _abort(box: Box, _words: list[str], terminal: Terminal) -> None:
    if await terminal.ask(_PROCEED) == "y" and box.flash.uncommitted:
        terminal.say("SUCCESS: install_abort Mon Jan  1 00:03:00 UTC 2024\n")
        restart(box)
    else:
        terminal.say("FAILED: install_abort : no activation is uncommitted\n")


_INSTALLS: Mapping[str, Callable[[Box, list[str], Terminal], Awaitable[None]]] = {
    "add": _add,
    "activate": _activate,
    "commit": _commit,
    "abort": _abort,
}
