"""PostgreSQL's own dump and restore, with Debian's programs: the server that leads next says on the trail what happened."""

import os
import subprocess
from pathlib import Path

from server.foundation import begin_anew
from server.storage import SqlDatabase
from simulator.postgresql import USER, program
from tests.databases import Cluster
from tests.server.audit.chains import NOW, SetClock, checked, keeper_of, lines_of, write


def pg(name: str, cluster: Cluster, *arguments: str) -> None:
    environment = {**os.environ, "PGHOST": str(cluster.directory), "PGUSER": USER}
    subprocess.run([str(program(name)), *arguments], check=True, env=environment, capture_output=True)


async def test_a_dump_restored_over_a_database_that_went_on(postgres: Cluster, tmp_path: Path) -> None:
    """As `otaria backup` and `otaria restore` tell to do it."""
    name, folder = postgres.fresh(), tmp_path
    dump, url = folder / "otaria.pgdump", postgres.url(name)
    database = SqlDatabase.open(url)
    await write(database, "one", "two")
    await keeper_of(database, folder).sign()
    await database.write(lambda unit: unit.outbox.add("otaria/v1/x", b"an order of then", retain=True))
    pg("pg_dump", postgres, "--format=custom", "-f", str(dump), name)
    await write(database, "lost")
    kept = await keeper_of(database, folder).sign()
    assert kept is not None
    await database.close()
    (folder / "checkpoint.json").unlink()

    pg("pg_restore", postgres, "--clean", "--if-exists", "-d", name, str(dump))
    database = SqlDatabase.open(url)
    await database.write(lambda unit: begin_anew(unit, int(NOW), NOW + 60))
    await keeper_of(database, folder, SetClock(NOW + 60)).sign()
    assert await database.read(lambda unit: unit.outbox.pending(9)) == []
    lines = await lines_of(database)
    assert checked(lines).is_whole
    verdict = checked(lines, [kept.envelope])
    assert [fault.kind for fault in verdict.faults] == ["lost-by-restore"]
    await write(database, "goes on")
    await database.close()
    postgres.drop(name)
