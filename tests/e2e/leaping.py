"""A server whose clock leaps ahead when a file says so: `python -m tests.e2e.leaping` in a laboratory's directory."""

import asyncio
import time
from pathlib import Path

from server.app import Server
from server.campaigns import comparing
from server.config import load_settings
from server.foundation import SystemClock

AHEAD = "ahead"
"""The file, in the laboratory's directory: seconds."""


class LeapingClock:
    """Real time, and the seconds ahead that a file holds."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def ahead_s(self) -> float:
        return float(self._file.read_text()) if self._file.exists() else 0.0

    def leap(self, seconds: float) -> None:
        """Leap ahead, at once for whoever looks."""
        ahead = self._file.with_suffix(".new")
        ahead.write_text(str(self.ahead_s + seconds))
        ahead.replace(self._file)

    def seconds(self) -> float:
        """Monotonic seconds."""
        return time.monotonic() + self.ahead_s

    def wall(self) -> float:
        """POSIX seconds."""
        return time.time() + self.ahead_s


async def serve(directory: Path) -> None:
    """Serve until killed, and compare metrics twice a second."""
    comparing.LOOK_EVERY_S = 0.5
    clock = LeapingClock(directory / AHEAD)
    settings = load_settings(directory / "otaria.toml")
    async with Server(settings, clock=SystemClock(wall=clock.wall, counted=clock.seconds)) as server:
        await server.wait()


if __name__ == "__main__":
    asyncio.run(serve(Path.cwd()))
