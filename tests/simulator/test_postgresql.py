"""A PostgreSQL of one's own: killed it leaves nobody behind, keeps what was committed and nothing else, and starts again."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from firmware.errors import UnavailableError
from simulator.postgresql import DATABASE, Cluster, program

QUICK = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    try:
        one = Cluster(QUICK)
    except UnavailableError as error:
        pytest.skip(error.text)
    yield one
    one.close()


def connect(cluster: Cluster) -> psycopg.Connection:
    return psycopg.connect(cluster.url())


def processes(cluster: Cluster) -> list[int]:
    """Of all that run in its directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").resolve() == cluster.directory / "data":
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(180)
def test_a_killed_one_leaves_nobody_keeps_what_was_committed_and_starts_again(cluster: Cluster) -> None:
    cluster.start()
    with connect(cluster) as one, connect(cluster) as other:
        one.execute("CREATE TABLE kept (n int)")
        one.execute("INSERT INTO kept VALUES (1)")
        one.commit()
        other.execute("INSERT INTO kept VALUES (2)")
        assert len(processes(cluster)) > 5
        os.kill(other.info.backend_pid, signal.SIGSTOP)  # so that it doesn't find out by itself
        cluster.kill()
        assert processes(cluster) == []
        with pytest.raises(psycopg.OperationalError):
            other.commit()
    with pytest.raises(psycopg.OperationalError):
        connect(cluster)
    cluster.kill()
    cluster.start()
    with connect(cluster) as again:
        assert again.execute("SELECT n FROM kept").fetchall() == [(1,)]
    assert "database system was interrupted" in cluster.log()


@pytest.mark.timeout(180)
def test_it_outlives_the_thread_that_started_it_and_close_leaves_nothing(cluster: Cluster) -> None:
    """The kernel ends a process with the thread that made it, if it is asked to."""
    starter = threading.Thread(target=cluster.start)
    starter.start()
    starter.join()
    with connect(cluster) as one:
        assert one.execute("SELECT pg_sleep(0.2), current_database()").fetchone() == ("", DATABASE)
    directory = cluster.directory
    assert processes(cluster)
    cluster.close()
    assert processes(cluster) == []
    assert not directory.exists()
    cluster.close()


def test_before_it_is_started_it_is_nowhere(cluster: Cluster) -> None:
    with pytest.raises(UnavailableError, match="was not started"):
        cluster.url()
    cluster.kill()


def test_its_programs_are_found_on_the_path_or_where_debian_has_them_and_else_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def there(home: Path, *names: str) -> Path:
        home.mkdir(parents=True)
        for name in names:
            (home / name).write_text("#!/bin/sh\n")
            (home / name).chmod(0o755)
        return home

    debian = tmp_path / "postgresql"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UnavailableError, match="apt-get install postgresql") as caught:
        program("postgres", debian)
    assert caught.value.kind == "no-postgresql"
    old, new = (there(debian / number / "bin", "initdb", "postgres") for number in ("9", "15"))
    assert program("postgres", debian) == new / "postgres"
    own = there(tmp_path / "bin", "initdb")
    assert program("initdb", debian) == own / "initdb"
    assert program("postgres", debian) == new / "postgres", "it isn't beside that one"
    (new / "postgres").unlink()
    assert program("postgres", debian) == old / "postgres"


@pytest.mark.skipif(os.getuid() != 0, reason="only root needs another user")
@pytest.mark.timeout(180)
def test_root_runs_it_as_somebody_else(cluster: Cluster) -> None:
    cluster.start()
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in processes(cluster)}.isdisjoint({0})
