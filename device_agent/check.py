"""Run the health checks of what runs now, by hand. Uses the stored manifest only; changes nothing."""

from pathlib import Path

from device_agent.boot.backend import open_boot
from device_agent.catalogue import open_catalogue
from device_agent.config import load_config
from device_agent.effects import FileEffects
from device_agent.health.runner import HealthRunner
from device_agent.journal import Journal
from device_agent.ports import HealthResult
from firmware.errors import UnavailableError


def check_running(directory: Path) -> HealthResult:
    """Run the checks of the release in the running slot and those of the device.

    Raises `UnavailableError` (`no-boot-status`, `no-checks`).
    """
    directory = directory.absolute()
    config = load_config(directory)
    status = open_boot(config.boot, directory, (directory / config.board).resolve(), FileEffects()).status()
    own = config.health.checks
    record = Journal(FileEffects(), directory).load()
    content = record.standing.slots.get(status.slot) if record else None
    if content is not None and content.manifest is not None:
        listed = open_catalogue(directory, None).manifest(content.manifest).health
    elif own:
        listed = []
    else:
        text = "No manifest of the running release is known here (it came from the factory), so there are no checks to run."
        raise UnavailableError("no-checks", text)
    return HealthRunner().run([*listed, *own], program_port=status.program_port, stop=lambda: False)
