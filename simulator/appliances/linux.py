"""Boxes with a Unix shell: SONiC and OpenWrt, as their public documentation shows their commands."""

import asyncio
import re

import msgspec
from msgspec.structs import replace

from simulator.appliances.box import Box, hash_of
from simulator.appliances.dialogue import Terminal, present, restart
from simulator.appliances.image import read_image

_DETACHED = re.compile(r"\[ -e (\S+) \] \|\| nohup sh -c '(.+) >\S+ 2>&1; echo \$\? >\S+' >/dev/null 2>&1 &")


class _Log:
    """A command's output in a file."""

    def __init__(self) -> None:
        self.text = ""

    def say(self, text: str) -> None:
        self.text += text

    async def ask(self, question: str) -> str:
        raise EOFError(question)


async def sonic(box: Box, command: str, terminal: Terminal) -> int:
    """A SONiC switch."""
    if (detached := _DETACHED.fullmatch(command)) is not None:
        log = box.file(detached.group(1))
        if not log.exists():
            log.write_text("")
            box.spawn(_detach(box, detached.group(2), detached.group(1)))
        return 0
    words = command.removeprefix("sudo ").split()
    if words[:1] == ["sonic-installer"]:
        return await _installer(box, words[1:], terminal)
    if words == ["reboot"]:
        return _reboot(box, terminal)
    if words == ["show", "version"]:
        flash = box.flash
        terminal.say(
            f"\nSONiC Software Version: SONiC.{flash.running}\nDistribution: Debian\nPlatform: x86_64-emulated-r0\n"
            f"HwSKU: {flash.model}\nASIC: emulated\nSerial Number: {flash.serial}\nUptime: up\n"
        )
        return 0
    if words == ["show", "runningconfiguration", "all"]:
        terminal.say(msgspec.json.format(msgspec.json.encode(box.flash.config), indent=4).decode() + "\n")
        return 0
    if words == ["show", "lldp", "table"]:
        terminal.say("Capability codes: (R) Router, (B) Bridge, (O) Other\n")
        terminal.say("".join(f"{one}   R   Ethernet1\n" for one in present(box, box.flash.neighbours)))
        return 0
    if words == ["show", "interfaces", "status"]:
        terminal.say("  Interface    Lanes    Speed    MTU    Oper    Admin\n")
        for one in box.flash.interfaces:
            state = "up" if one in present(box, box.flash.interfaces) else "down"
            terminal.say(f"  {one}    1,2    100G    9100    {state}    up\n")
        return 0
    if words == ["show", "ip", "route"]:
        terminal.say(
            "Codes: K - kernel route, C - connected, S - static,\n       > - selected route, * - FIB route\n\n"
        )
        terminal.say("K>*0.0.0.0/0 [0/202] via 192.0.2.1, eth0, 00:10:00\n")
        terminal.say("C>*198.51.100.0/24 is directly connected, eth1, 00:10:00\n")
        return 0
    return _shell(box, words, terminal)


async def _detach(box: Box, command: str, log: str) -> None:
    said = _Log()
    status = await sonic(box, command, said)
    box.file(log).write_text(said.text)
    box.file(f"{log}.rc").write_text(f"{status}\n")


async def _installer(box: Box, words: list[str], terminal: Terminal) -> int:
    flash = box.flash
    version = words[-1].removeprefix("SONiC-OS-")
    if words == ["list"]:
        upcoming = flash.once or flash.permanent
        terminal.say(f"Current: SONiC-OS-{flash.running}\nNext: SONiC-OS-{upcoming}\nAvailable: \n")
        terminal.say("".join(f"SONiC-OS-{one}\n" for one in flash.installed))
        return 0
    if words[:2] == ["install", "-y"]:
        await asyncio.sleep(box.times.install_s)
        installed = box.install(box.file(words[2]))
        if installed is None:
            terminal.say("Image file is not a valid SONiC image file for this platform.\nAborted!\n")
            return 1
        box.keep(replace(box.flash, permanent=installed))
        terminal.say(f"Installing image SONiC-OS-{installed} and setting it as default...\nDone\n")
        return 0
    if words == ["verify-next-image"]:
        whole = box.is_whole(flash.once or flash.permanent) and not box.faults.arm_fails
        terminal.say("Image successfully verified\n" if whole else "Image verification failed\n")
        return 0 if whole else 1
    if words[0] in ("set-default", "set-next-boot"):
        if version not in flash.installed:
            terminal.say("Error: Image does not exist\n")
            return 1
        if words[0] == "set-next-boot":
            box.keep(replace(flash, once="" if version == flash.permanent else version))
        elif box.faults.commit_refused and flash.on_trial:
            terminal.say("Error: can't write the boot configuration\n")
            return 1
        elif box.faults.default_forgotten and version == flash.running:
            box.faults.default_forgotten = False
        elif not (box.faults.commit_forgotten and flash.on_trial):
            box.keep(replace(flash, permanent=version))
        return 0
    terminal.say(f"Error: No such command '{words[0]}'.\n")
    return 2


def _reboot(box: Box, terminal: Terminal) -> int:
    if box.faults.restart_refused:
        terminal.say("Failed to verify next image: refused\n")
        return 21
    restart(box)
    return 0


async def openwrt(box: Box, command: str, terminal: Terminal) -> int:
    """An OpenWrt router: one image."""
    words, flash = command.split(), box.flash
    if words == ["ubus", "call", "system", "board"]:
        board = {
            "kernel": "5.15.150",
            "model": "Emulated Router",
            "board_name": flash.model,
            "release": {"distribution": "OpenWrt", "version": flash.running},
        }
        terminal.say(msgspec.json.format(msgspec.json.encode(board), indent=2).decode() + "\n")
        return 0
    if words == ["cat", "/sys/class/net/eth0/address"]:
        terminal.say(f"{flash.serial}\n")
        return 0
    if words == ["uci", "export"]:
        terminal.say("\n".join(flash.config) + "\n")
        return 0
    if words == ["ubus", "call", "network.interface", "dump"]:
        terminal.say("".join(f'\t"interface": "{one}",\n' for one in present(box, flash.interfaces)))
        return 0
    if words[:1] == ["sysupgrade"]:
        return await _sysupgrade(box, words[1:], terminal)
    return _shell(box, words, terminal)


async def _sysupgrade(box: Box, words: list[str], terminal: Terminal) -> int:
    path = box.file(words[-1])
    facts = read_image(path)
    if facts is None or facts.kind != box.flash.kind or box.faults.install_fails:
        terminal.say("Image metadata not present\nImage check failed.\n")
        return 1
    if words[0] == "-T":
        return 1 if box.faults.arm_fails else 0
    if box.faults.restart_refused:
        terminal.say("Image check failed.\n")
        return 1
    terminal.say("Commencing upgrade. Closing all shell sessions.\n")
    if not box.faults.restart_forgotten:
        version = box.install(path)
        flash = box.flash
        old = flash.running
        installed = {name: file for name, file in flash.installed.items() if name == (version or old)}
        box.keep(replace(flash, permanent=version or old, running=version or old, installed=installed))
    restart(box)
    return 0


def _shell(box: Box, words: list[str], terminal: Terminal) -> int:
    """What every Unix has."""
    if words == ["cat", "/proc/sys/kernel/random/boot_id"]:
        terminal.say(f"{box.flash.boot}\n")
        return 0
    if words[:1] == ["cat"] and box.file(words[1]).is_file():
        terminal.say(box.file(words[1]).read_text())
        return 0
    if words[:2] == ["df", "-Pk"]:
        free = box.free_bytes() // 1024
        terminal.say("Filesystem 1024-blocks Used Available Capacity Mounted on\n")
        terminal.say(f"/dev/root 65536 {65536 - free} {free} 10% {words[2]}\n")
        return 0
    if words[:1] == ["sha256sum"] and (digest := hash_of(box.file(words[1]), "sha256")):
        terminal.say(f"{digest}  {words[1]}\n")
        return 0
    if words[:2] == ["rm", "-f"]:
        for name in words[2:]:
            box.file(name).unlink(missing_ok=True)
        return 0
    if words == ["ip", "route", "show"]:
        terminal.say("default via 192.0.2.1 dev eth0\n198.51.100.0/24 dev eth1\n")
        return 0
    terminal.say(f"sh: {' '.join(words)}: not found\n")
    return 127
