"""`otaria-agent boot …`: what an image builder and the system's own units ask of the boot loader's back end."""

import secrets
from pathlib import Path

from device_agent.boot.backend import make_environment, open_boot
from device_agent.boot.scripted import ScriptedBoot
from device_agent.boot.systemd_boot import SystemdBoot
from device_agent.config import load_config
from device_agent.effects import FileEffects
from device_agent.ports import BootControl, Slot


def make(directory: Path, slot: str) -> str:
    """Make the first environment, with `slot` committed. Raises `RefusedError`, `UnavailableError` or `OSError`."""
    place = make_environment(
        load_config(directory).boot, directory, FileEffects(), Slot(slot), probe=secrets.token_hex(4)
    )
    return f"Made {place}; slot {slot} is committed. Let the boot loader use it, and restart once."


def check(directory: Path) -> str:
    """Prove that the boot loader uses what the agent writes. Raises `RefusedError` (`boot-environment-split`) when it does
    not."""
    boot = control(directory)
    status = boot.status()
    if isinstance(boot, ScriptedBoot | SystemdBoot):
        boot.prove()
    return f"Slot {status.slot.value} runs ({status.outcome.value}); the boot loader and the agent use one environment."


def shut_down(directory: Path) -> str:
    """Note that this boot ends cleanly."""
    control(directory).shut_down()
    return "Noted a clean shutdown."


def control(directory: Path) -> BootControl:
    """The back end that `agent.toml` chooses."""
    config = load_config(directory)
    return open_boot(config.boot, directory, (directory / config.board).resolve(), FileEffects())
