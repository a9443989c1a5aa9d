"""A PostgreSQL of its own on a Unix socket, as durable as it comes: what is measured waits for its disk."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
START_S = 30.0
POLL_S = 0.1


def postgres_is_here() -> bool:
    return (PROGRAMS / "postgres").exists()


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Run one; gives the URL of an empty database. Raises `RuntimeError` when it does not answer."""
    place = directory / "pg"
    place.mkdir()
    other = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
    as_user = ["setpriv", *other, "--pdeathsig=QUIT"]
    if other:
        shutil.chown(place, USER, USER)
        _open_way(place)
    data = str(place / "data")
    command = [*as_user, str(PROGRAMS / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8"]
    subprocess.run([*command, "--locale=C.UTF-8", "--no-sync"], check=True, capture_output=True, cwd=place)
    settings = [f"unix_socket_directories={place}", "listen_addresses="]
    words = [word for setting in settings for word in ("-c", setting)]
    server = [*as_user, str(PROGRAMS / "postgres"), "-D", data, *words]
    process = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place)
    try:
        _wait(place)
        yield f"postgresql://{USER}@/postgres?host={place}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _open_way(place: Path) -> None:
    """Let the database's user reach its directory."""
    for parent in place.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)


def _wait(place: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        answer = subprocess.run(
            [PROGRAMS / "pg_isready", "-h", place, "-U", USER], check=False, stdout=subprocess.DEVNULL
        )
        if answer.returncode == 0:
            return
        time.sleep(POLL_S)
    raise RuntimeError(f"PostgreSQL did not answer within {START_S:g} s.")
