"""The watchdogs: systemd's, which restarts an agent that hangs, and the hardware's, which restarts a machine that does.

Both are fed from the agent's own loop, so that a loop which stands still feeds nothing. In a trial they are fed only while the
trial may still be committed: once its checks failed, or its deadline passed, the dog is left hungry, in case that the ordered
restart hangs too. The hardware's is armed for trials, or always if so configured. It is disarmed when the agent ends, except in
a trial: a trial without an agent can't be committed, so the machine restarts and the boot loader counts.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)
SET_TIMEOUT = 0xC0045706
"""WDIOC_SETTIMEOUT of linux/watchdog.h."""
UNKNOWN_TIMEOUT_S = 15.0
"""Supposed of a device that takes no timeout: the drivers' own are mostly longer."""
RETRY_ARM_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Leave:
    """What the agent's standing lets a watchdog do now: `feed` it, and whether a `trial` runs."""

    feed: bool = True
    trial: bool = False


class Manager:
    """The service manager that started this process, over its datagram socket (sd_notify(3)). Without one, nothing happens."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment, pid)

    def tell(self, word: str) -> None:
        """Send one assignment such as `READY=1`. A manager that doesn't listen is no reason to end."""
        if self._address is None:
            return
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as sender:
                sender.connect(self._address)
                sender.sendall(word.encode())
        except OSError as error:
            log.warning("service manager can't be told", extra={"word": word, "reason": str(error)})


class Hardware(Protocol):
    """A hardware watchdog. Each call raises `OSError` as the system does."""

    def arm(self, timeout_s: int) -> float:
        """Start it; the timeout in seconds that it took."""
        ...

    def feed(self) -> None: ...
    def disarm(self) -> None:
        """Stop it, if its driver allows that (with `nowayout` it goes on)."""
        ...


class DeviceFile:
    """`Hardware` over a character device such as `/dev/watchdog`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def arm(self, timeout_s: int) -> float:
        """Opening it starts it. Who dies with it open leaves it running."""
        import fcntl
        import struct

        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            taken = fcntl.ioctl(self._descriptor, SET_TIMEOUT, struct.pack("i", timeout_s))
        except OSError:
            return UNKNOWN_TIMEOUT_S
        return float(struct.unpack("i", taken)[0])

    def feed(self) -> None:
        """Any byte but the magic one."""
        if self._descriptor is not None:
            os.write(self._descriptor, b"\0")

    def disarm(self) -> None:
        """The magic close."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.write(descriptor, b"V")
        finally:
            os.close(descriptor)


class Watchdog:
    """Both dogs. `turn` is called by the agent's loop, at least every `every_s` seconds (None: there is nothing to feed)."""

    def __init__(
        self, manager: Manager, hardware: Hardware | None = None, *, timeout_s: int = 60, always: bool = False
    ) -> None:
        self._manager, self._hardware = manager, hardware
        self._timeout_s, self._always = timeout_s, always
        self._taken_s: float | None = None
        self._arm_at = self._feed_at = float("-inf")
        self._trial = False

    @property
    def every_s(self) -> float | None:
        """Seconds from one `turn` to the next: a third of the shorter timeout, or until a lost device is looked for again."""
        wanted = RETRY_ARM_S if self._arm_at > float("-inf") and self._taken_s is None else None
        limits = [limit for limit in (self._manager.watchdog_s, self._taken_s, wanted) if limit is not None]
        return min(limits) / 3 if limits else None

    def ready(self) -> None:
        """The agent is up."""
        self._manager.tell("READY=1")

    def turn(self, leave: Leave, now: float) -> None:
        """Arm, feed or disarm, as the standing allows. `now`: monotonic seconds."""
        self._trial = leave.trial
        self._tend(leave, now)
        if not leave.feed or now < self._feed_at:
            return
        self._feed_at = now + (self.every_s or 0) / 2
        if self._manager.watchdog_s is not None:
            self._manager.tell("WATCHDOG=1")
        if self._hardware is not None and self._taken_s is not None:
            self._try("fed", self._hardware.feed)

    def stop(self) -> None:
        """The agent ends."""
        self._manager.tell("STOPPING=1")
        if self._hardware is not None and self._taken_s is not None and not self._trial:
            self._try("disarmed", self._hardware.disarm)

    def _tend(self, leave: Leave, now: float) -> None:
        if self._hardware is None:
            return
        wanted = leave.trial or self._always
        if wanted and self._taken_s is None and now >= self._arm_at:
            self._arm(self._hardware, now)
        elif not wanted:
            armed, self._taken_s, self._arm_at = self._taken_s is not None, None, float("-inf")
            if armed:
                self._try("disarmed", self._hardware.disarm)

    def _arm(self, hardware: Hardware, now: float) -> None:
        try:
            self._taken_s = hardware.arm(self._timeout_s)
            self._arm_at = self._feed_at = float("-inf")
        except OSError as error:
            self._arm_at = now + RETRY_ARM_S
            text = "the hardware watchdog can't be armed; a machine that hangs in a trial will not restart by itself"
            log.error(text, extra={"reason": str(error)})

    def _try(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            log.error("hardware watchdog can't be %s", what, extra={"reason": str(error)})


def _address(named: str) -> str | None:
    """The socket's address: a path, or an abstract name that is written with an @."""
    if named.startswith("/"):
        return named
    return "\0" + named[1:] if named.startswith("@") and len(named) > 1 else None


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """What systemd expects, if it expects it of this process."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or not int(microseconds[:18]) > 0:
        return None
    return int(microseconds[:18]) / 1e6
