"""What is done to a server's PostgreSQL, done to a real one under a real server, and what a server must not do meanwhile."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.cli import run as otaria
from simulator.lab import Lab, running
from simulator.postgresql import Cluster
from simulator.rest import RestError
from simulator.run_cli import WIRE, Done, Job, Wanted
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.wire.ailing import Span, no_database, slow_database

QUICK = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB")
SERVE = ("serve", "--config", "otaria.toml")
LEAVES = """
import server.leadership as leading
async def ends(self):
    while True:
        await self._database.read(lambda unit: None)
        await leading.asyncio.sleep(0.1)
leading.Leadership.keep = ends
from server.cli import main
main()
"""
"""A server that ends when it can't renew its lease, as one would that minds nothing."""
NEVER_LOOKS = """
import server.storage.database as stored
read = stored.SqlDatabase.read
class Wrong(stored.SqlDatabase):
    lost = False
    async def read(self, work):
        try:
            if not Wrong.lost:
                return await read(self, work)
        except stored.UnavailableError:
            Wrong.lost = True
        raise stored.UnavailableError("lost-it", "It never looks again.")
stored.SqlDatabase.read = Wrong.read
from server.cli import main
main()
"""
"""A server that says something else than it should, and never looks for its database again."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        one = Cluster(QUICK)
    except UnavailableError as error:
        pytest.skip(error.text)
    one.start()
    yield one
    one.close()


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(Lab(tmp_path_factory.mktemp("gone"), broker="embedded", database=cluster)) as one:
        yield one


def tokens(lab: Lab) -> int:
    return len(lab.rest.get("/claim-tokens")["claim_tokens"])


@pytest.mark.timeout(240)
def test_without_its_database_a_server_refuses_in_words_lives_on_and_comes_back(lab: Lab) -> None:
    lab.claim(uses=1)
    said: list[str] = []
    pid, before = lab.server_pid, tokens(lab)
    reading: list[RestError] = []

    def read() -> None:
        time.sleep(0.5)
        try:
            tokens(lab)
        except RestError as error:
            reading.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    refused = no_database(lab, Span(3.0), said.append)
    reader.join()
    assert (refused >= 3, said, lab.server_pid, lab.has_ended) == (True, [], pid, False)
    assert [(one.kind, one.status) for one in reading] == [(ReasonKind.STORAGE_FAULT, 503)]
    assert tokens(lab) == before + 1, "what was granted before, and what was asked until it was granted again"
    lab.claim(uses=1)
    assert tokens(lab) == before + 2


@pytest.mark.timeout(240)
def test_while_somebody_else_has_its_lock_a_server_writes_nothing_and_reads(lab: Lab, cluster: Cluster) -> None:
    done: list[float] = []

    def ask() -> None:
        lab.claim(uses=1)
        done.append(time.monotonic())

    asker = threading.Thread(target=ask)
    with cluster.held():
        asker.start()
        time.sleep(1.5)
        tokens(lab)
        over = time.monotonic()
    asker.join()
    assert done[0] > over
    said: list[str] = []
    slow_database(lab, Span(1.0), said.append)
    assert said == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("program", "what"),
    [
        pytest.param(LEAVES, ["the server ended"], id="ends"),
        pytest.param(
            NEVER_LOOKS,
            ["the server refused a change with lost-it", "did not come back within 20 s"],
            id="never looks again",
            marks=pytest.mark.deep,
        ),
    ],
)
def test_a_server_that_does_not_bear_it_is_told_of(program: str, what: Sequence[str], tmp_path: Path) -> None:
    database, said = Cluster(QUICK), list[str]()
    try:
        database.start()
        one = Lab(tmp_path, broker="embedded", database=database)
        one.serve = ("-c", program, *SERVE)
        with running(one):
            no_database(one, Span(2.0), said.append)
    finally:
        database.close()
    for text in what:
        assert [one for one in said if text in one]


def test_sqlite_has_no_process_to_kill(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        no_database(Lab(tmp_path), Span(1.0), lambda _: None)
    assert refused.value.kind == "other-database"


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--wire", "database-killed", "--database", "sqlite"), 1, "wire[0].do: kill-database kills processes"),
        (("--wire", "storage-storm", "--database", "postgresql"), 1, "wire[0].do: full-server fills the disk"),
        (("database-killed",), 1, "run it with --exact or --wire"),
        (("calm", "--database", "postgresql"), 2, "--database is for --wire"),
        (("--exact", "database-killed", "--database", "postgresql"), 2, "exact runs have SQLite"),
        (("--wire", "calm", "--database", "mysql"), 2, "'sqlite', 'postgresql'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_begins(
    words: Sequence[str], code: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert otaria(["sim", "run", *words]) == code
    assert what in " ".join(capsys.readouterr().err.split())


def test_the_command_that_shows_it_again_names_the_database_that_was_wanted() -> None:
    world = load("calm")
    outcome = Outcome(
        world="calm",
        seed=7,
        virtual_days=1.0,
        seconds=1.0,
        events=0,
        digest="",
        campaigns=(),
        broken=1,
        violations=("It broke.",),
        ignored={},
    )
    job = Job(given="calm", world=world, how=WIRE)
    again = [Done(job=job, outcome=outcome, wanted=Wanted(pace=12, database=one)).again for one in (None, "postgresql")]
    assert again[0] == "otaria sim run calm --seed 7 --wire --pace 12"
    assert again[1] == f"{again[0]} --database postgresql"
