"""Both databases as fixtures: a test that takes `database_url` runs on SQLite in a file and on a PostgreSQL of its own.

One cluster per test session, started from Debian's package when the first test asks for it: on a Unix socket in a temporary
directory, as the user `postgres` where root runs the tests, and without syncing, since nobody pulls its plug. Each test gets a
copy of a database that was migrated once.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import pytest

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
KINDS = ("sqlite", "postgresql")
USER = "postgres"
TEMPLATE = "migrated"
START_S = 30.0
_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB", "max_connections=200")


@dataclass
class Cluster:
    """A running PostgreSQL that listens on a socket in `directory`."""

    directory: Path
    process: subprocess.Popen[bytes]
    names: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, name: str) -> str:
        """Of a database."""
        return f"postgresql://{USER}@/{name}?host={self.directory}"

    def execute(self, statement: str) -> None:
        """Run one administrator's statement."""
        import psycopg

        with psycopg.connect(host=str(self.directory), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def fresh(self) -> str:
        """The name of a new database with all tables and no rows."""
        name = f"t{next(self.names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def drop(self, name: str) -> None:
        """Forget a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for this session; skips where the package is missing."""
    if not (PROGRAMS / "postgres").exists():
        pytest.skip("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    directory = Path(tempfile.mkdtemp(prefix="otaria-pg-"))
    cluster = None
    try:
        if os.getuid() == 0:
            shutil.chown(directory, USER, USER)
        cluster = _started(directory)
        _make_template(cluster)
        yield cluster
    finally:
        if cluster is not None:
            cluster.process.send_signal(signal.SIGINT)  # whoever is still connected is not waited for
            cluster.process.wait(timeout=START_S)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database of each kind."""
    if request.param == "sqlite":
        yield fresh_sqlite(tmp_path / "otaria.db")
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    name = cluster.fresh()
    yield cluster.url(name)
    cluster.drop(name)


def fresh_sqlite(path: Path) -> str:
    """The URL of a new file with all tables and no rows."""
    path.write_bytes(_migrated())
    return f"sqlite:///{path}"


@cache
def _migrated() -> bytes:
    """A migrated file. To migrate takes ten times as long as to open, and a thousand tests begin with it."""
    from server.storage.engines import make_engine, parse_url
    from server.storage.schema import upgrade

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "migrated.db"
        engine = make_engine(parse_url(f"sqlite:///{path}"), writer=True, size=1)
        upgrade(engine)
        engine.dispose()
        return path.read_bytes()


def _started(directory: Path) -> Cluster:
    data = directory / "data"
    made = [
        str(PROGRAMS / "initdb"),
        "-D",
        str(data),
        "-U",
        USER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run(_unprivileged(made), check=True, stdout=subprocess.DEVNULL, cwd=directory)
    quick = [word for setting in _QUICK for word in ("-c", setting)]
    run = [str(PROGRAMS / "postgres"), "-D", str(data), "-k", str(directory), "-h", "", *quick]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(_unprivileged(run), stdout=log, stderr=log, cwd=directory)
    cluster = Cluster(directory=directory, process=process)
    _wait(cluster)
    return cluster


def _unprivileged(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root; and it must not outlive a session that was killed."""
    other = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *other, "--pdeathsig=QUIT", *command]


def _wait(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            return cluster.execute("SELECT 1")
        except Exception as error:
            if time.monotonic() > deadline or cluster.process.poll() is not None:
                raise RuntimeError((cluster.directory / "log").read_text()) from error
        time.sleep(0.05)


def _make_template(cluster: Cluster) -> None:
    from server.storage.engines import make_engine, parse_url
    from server.storage.schema import upgrade

    cluster.execute(f"CREATE DATABASE {TEMPLATE}")
    engine = make_engine(parse_url(cluster.url(TEMPLATE)), writer=True, size=1)
    upgrade(engine)
    engine.dispose()
