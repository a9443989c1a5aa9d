"""Asking the system to restart."""

import contextlib
from collections.abc import Sequence

from device_agent.ports import Effects

REBOOT = ("systemctl", "--no-block", "reboot")
REBOOT_S = 30.0


def restart(effects: Effects, argv: Sequence[str]) -> None:
    """Run the command that restarts the system. Raises `OSError` when it fails.

    One that is ended by SIGTERM was heard: systemd ends it together with the agent that started it, as a part of the restart.
    """
    with contextlib.suppress(InterruptedError):
        effects.run(argv, timeout_s=REBOOT_S)
