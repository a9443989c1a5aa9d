"""A bare Mosquitto on a free loopback port: no TLS, no access list, no limits on what it queues."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READY_S = 10.0
POLL_S = 0.02
HOST = "127.0.0.1"


@contextmanager
def bare_mosquitto(binary: Path, directory: Path) -> Iterator[int]:
    """Run one; gives its port. Raises `RuntimeError` when it does not answer."""
    port = _free_port()
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_type none\n"
    )
    process = subprocess.Popen([binary, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(POLL_S)
    raise RuntimeError(f"Mosquitto did not answer within {READY_S:g} s.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
