"""Asking for a restart: systemd ends who asks together with the agent, and that is no failure."""

import pytest

from device_agent.boot.restart import restart
from device_agent.effects import FileEffects


def test_who_is_ended_by_the_restart_was_heard() -> None:
    restart(FileEffects(), ("sh", "-c", "kill -TERM $$"))


@pytest.mark.parametrize("does", ["exit 1", "kill -KILL $$"])
def test_a_restart_that_fails_is_told(does: str) -> None:
    with pytest.raises(OSError, match="sh failed with"):
        restart(FileEffects(), ("sh", "-c", does))
