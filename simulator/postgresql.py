"""A PostgreSQL cluster of one's own: made anew, started, killed with all its children, started again, and gone in the end.

Rules
- It listens on a Unix socket in a temporary directory of its own, and nowhere else.
- Where root starts it, it runs as Debian's user `postgres`, since it refuses root.
- It doesn't outlive whoever made it, even one that is killed. The kernel sees to that for the thread that starts a process, so
  that there is one thread for it, which lives as long as the cluster.
"""

import contextlib
import importlib.util
import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from firmware.errors import UnavailableError
from server.storage.engines import WRITER_LOCK

USER, DATABASE = "postgres", "otaria"
PORT = 5432
"""Of the socket's name: nothing listens on TCP."""
START_S, STOP_S, PATIENCE_S = 60.0, 30.0, 10.0
POLL_S = 0.05
DEBIAN = Path("/usr/lib/postgresql")
_INITDB = ("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")


def program(name: str, debian: Path = DEBIAN) -> Path:
    """One of PostgreSQL's programs: beside the `initdb` of the user's PATH, or the newest where Debian puts them, which is
    outside of it. Raises `UnavailableError` (`no-postgresql`)."""
    found = shutil.which("initdb")
    homes = [Path(found).resolve().parent] if found else []
    homes += [home / "bin" for home in sorted(debian.glob("[0-9]*"), key=lambda one: int(one.name), reverse=True)]
    for home in homes:
        if (home / name).exists():
            return home / name
    raise UnavailableError("no-postgresql", "PostgreSQL is missing: apt-get install postgresql, and run this again.")


class Cluster:
    """`settings`: of the server, such as `fsync=off`; its own otherwise. Nothing is made before `start`.

    Raises `UnavailableError` (`no-postgresql`) where PostgreSQL, its driver or a user to run it as is missing.
    """

    def __init__(self, settings: Sequence[str] = ()) -> None:
        self._postgres, self._initdb = program("postgres"), program("initdb")
        _require_driver()
        self._as_other = _as_other_user()
        self._settings = [word for one in settings for word in ("-c", one)]
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="postgresql")
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where its socket is."""
        if self._directory is None:
            raise UnavailableError("postgresql-failed", "This PostgreSQL was not started.")
        return self._directory

    def url(self, name: str = DATABASE) -> str:
        """Of a database."""
        return f"postgresql://{USER}@/{name}?host={self.directory}&port={PORT}"

    def start(self) -> None:
        """Start it, the first time with an empty database, and wait until it answers: after a kill when it has recovered. Raises
        `UnavailableError` (`postgresql-failed`) with the end of its log."""
        is_new = self._directory is None
        if is_new:
            self._make()
        self._process = self._starter.submit(self._run).result()
        deadline = time.monotonic() + START_S
        while (why := self._refuses()) is not None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError("postgresql-failed", f"PostgreSQL does not start: {why} {self.log()}")
            time.sleep(POLL_S)
        if is_new:
            self.execute(f"CREATE DATABASE {DATABASE}")

    def kill(self) -> None:
        """`kill -9` of the postmaster and all its children, as by a machine that runs out of memory; returns when none is left.
        What was committed is kept; no transaction that was under way is."""
        postmaster, self._process = self._process, None
        if postmaster is None:
            return
        postmaster.send_signal(signal.SIGSTOP)  # so that it makes no more children
        _await_stop(postmaster.pid)
        children = _children(postmaster.pid)
        postmaster.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
        postmaster.wait(STOP_S)
        for child in children:  # the next one finds out whether somebody still has the memory that they shared
            _await_end(child)

    def close(self) -> None:
        """End it, whoever is still connected, and remove all that it kept; safe to call twice."""
        self.kill()
        self._starter.shutdown()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def execute(self, statement: str, name: str = "postgres") -> None:
        """Run one administrator's statement in a database."""
        import psycopg

        with psycopg.connect(self.url(name), autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no server write to its database meanwhile: hold the lock that each transaction of a writer takes. Raises
        `UnavailableError` (`postgresql-failed`) when that can't be had."""
        import psycopg

        try:
            connection = psycopg.connect(self.url(), autocommit=True)
        except psycopg.Error as error:
            raise UnavailableError("postgresql-failed", f"PostgreSQL does not answer: {error}") from error
        with contextlib.closing(connection):
            try:
                connection.execute(f"SET lock_timeout = {round(PATIENCE_S * 1000)}".encode())
                connection.execute(f"SELECT pg_advisory_lock({WRITER_LOCK})".encode())
            except psycopg.Error as error:
                raise UnavailableError("postgresql-failed", f"Its lock can't be had: {error}") from error
            yield

    def log(self) -> str:
        """The end of what it said."""
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def _make(self) -> None:
        directory = Path(
            tempfile.mkdtemp(prefix="otaria-pg-")
        )  # not below another: a socket's path has 107 bytes at most
        self._directory = directory
        if self._as_other:
            shutil.chown(directory, USER, USER)
        made = [*self._as_other, str(self._initdb), "-D", str(directory / "data"), "-U", USER, *_INITDB]
        done = subprocess.run(made, capture_output=True, text=True, check=False, cwd=directory)
        if done.returncode:
            raise UnavailableError("postgresql-failed", f"PostgreSQL makes no cluster: {done.stderr[-2000:]}")

    def _run(self) -> subprocess.Popen[bytes]:
        directory = self.directory
        where = ["-D", str(directory / "data"), "-k", str(directory), "-h", "", "-p", str(PORT)]
        leashed = [*(self._as_other or ["setpriv"]), "--pdeathsig=QUIT", str(self._postgres)]
        with (directory / "log").open("ab") as log:
            return subprocess.Popen([*leashed, *where, *self._settings], stdout=log, stderr=log, cwd=directory)

    def _refuses(self) -> str | None:
        """Why it takes no connection; None when it does."""
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError as error:
            return str(error)
        return None


def _require_driver() -> None:
    if importlib.util.find_spec("psycopg") is None:
        raise UnavailableError(
            "no-postgresql",
            "The driver of PostgreSQL is missing: pip install 'otaria[postgresql]', and run this again.",
        )


def _as_other_user() -> list[str]:
    """How root starts a program as the user that PostgreSQL may run as; nothing for anybody else."""
    if os.getuid() != 0:
        return []
    try:
        pwd.getpwnam(USER)
    except KeyError as error:
        text = (
            f"PostgreSQL refuses to run as root, and there is no user {USER} here: run this as somebody else than root."
        )
        raise UnavailableError("no-postgresql", text) from error
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]


def _children(parent: int) -> list[int]:
    """A handle of each child of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            handle = os.pidfd_open(int(entry.name))
            if _stat(int(entry.name))[1] == str(parent):
                found.append(handle)
            else:
                os.close(handle)
    return found


def _await_end(handle: int) -> None:
    try:
        ends = select.poll()
        ends.register(handle, select.POLLIN)
        if not ends.poll(STOP_S * 1000):
            raise UnavailableError(
                "postgresql-failed", f"A killed process of PostgreSQL is still there after {STOP_S:g} s."
            )
    finally:
        os.close(handle)


def _await_stop(pid: int) -> None:
    deadline = time.monotonic() + STOP_S
    while _stat(pid)[0] not in ("T", "Z"):
        if time.monotonic() > deadline:
            raise UnavailableError("postgresql-failed", "PostgreSQL does not stand still.")
        time.sleep(0.001)


def _stat(pid: int) -> list[str]:
    """State and parent of a process, and more. Raises `OSError` when there is none."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
