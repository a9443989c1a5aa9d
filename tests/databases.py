"""Both databases as fixtures: a test that takes `database_url` runs on SQLite in a file and on a PostgreSQL of its own.

One cluster per test session, started from Debian's package when the first test asks for it, without syncing, since nobody pulls
its plug. Each test gets a copy of a database that was migrated once.
"""

import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from firmware.errors import UnavailableError
from simulator import postgresql

KINDS = ("sqlite", "postgresql")
TEMPLATE = "migrated"
_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB", "max_connections=200")


class Cluster(postgresql.Cluster):
    """A PostgreSQL with a database for each test that asks for one."""

    def __init__(self) -> None:
        super().__init__(_QUICK)
        self._numbers = count(1)

    def fresh(self) -> str:
        """The name of a new database with all tables and no rows."""
        name = f"t{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def drop(self, name: str) -> None:
        """Forget a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for this session; skips where the package is missing."""
    try:
        cluster = Cluster()
    except UnavailableError as error:
        pytest.skip(error.text)
    try:
        cluster.start()
        _make_template(cluster)
        yield cluster
    finally:
        cluster.close()


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


def _make_template(cluster: Cluster) -> None:
    from server.storage.engines import make_engine, parse_url
    from server.storage.schema import upgrade

    cluster.execute(f"CREATE DATABASE {TEMPLATE}")
    engine = make_engine(parse_url(cluster.url(TEMPLATE)), writer=True, size=1)
    upgrade(engine)
    engine.dispose()
