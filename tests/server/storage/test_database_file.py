"""The database as a file: its settings, its schema's version, and what happens when the disk says no."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, select, text

from firmware.errors import RefusedError, UnavailableError
from server.audit.export import body_of_record
from server.audit.strand import START, Strand
from server.errors import ConflictError
from server.planner.rows import AssignmentRow
from server.planner.strategy import DeltaPolicy
from server.ports import MAX_DELTA_MEMORY, AgentRecord, AgentStatus, Role, Unit
from server.storage import SqlDatabase
from server.storage.audit import SqlAudit
from server.storage.engines import CACHE_KIB, ROOMY_CACHE_KIB, make_engine, parse_url
from server.storage.fleet_query import held_against
from server.storage.schema import _config, upgrade
from server.storage.tables import AGENT, TARGET, Stored
from server.storage.unit import SqlUnit


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = make_engine(parse_url(f"sqlite:///{tmp_path}/otaria.db"), writer=True, size=1)
    upgrade(made)
    yield made
    made.dispose()


def test_the_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Stored.metadata) == []


def test_every_connection_syncs_commits_holds_keys_and_writes_ahead(engine: Engine) -> None:
    with engine.connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_large_campaign_gets_room_for_its_indexes_and_gives_it_back(engine: Engine) -> None:
    found = list[int]()

    def rows(unit: SqlUnit) -> Iterator[AssignmentRow]:
        found.append(unit.campaigns._db.exec_driver_sql("PRAGMA cache_size").scalar_one())
        raise RuntimeError("no row after all")
        yield

    with engine.connect() as connection:
        unit = SqlUnit(connection)
        with pytest.raises(RuntimeError, match="no row"):
            unit.campaigns.add_assignments(rows(unit))
        found.append(connection.exec_driver_sql("PRAGMA cache_size").scalar_one())
    assert found == [-ROOMY_CACHE_KIB, -CACHE_KIB]


def test_a_window_of_candidates_is_gone_through_one_by_one_whatever_the_condition(engine: Engine) -> None:
    ids = select(TARGET.c.id.label("id")).order_by(TARGET.c.id).limit(100).subquery("candidate")
    query = select(TARGET.c.id).select_from(held_against(ids)).where(TARGET.c.running_version.in_(["1", "2"]))
    words = query.where(AGENT.c.status == "revoked").compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        plan = [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {words}"))]
    loops = [step for step in plan if step.startswith(("SCAN candidate", "SEARCH target ", "SEARCH agent "))]
    assert [step.split()[1] for step in loops][-3:] == ["candidate", "target", "agent"]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM assignment WHERE wake_at <= 5 ORDER BY wake_at LIMIT 5", "ix_assignment_wake_at"),
        ("SELECT min(wake_at) FROM assignment", "ix_assignment_wake_at"),
        (
            "SELECT * FROM assignment WHERE campaign = 'c' AND cohort = 1 AND state = 'planned' AND wake_at IS NULL "
            "ORDER BY rank LIMIT 5",
            "ix_assignment_campaign_state_cohort_rank",
        ),
        (
            "SELECT * FROM assignment WHERE campaign = 'c' ORDER BY cohort, rank, target LIMIT 5",
            "ix_assignment_campaign_cohort_rank_target",
        ),
        ("SELECT running_version, count(*) FROM target GROUP BY running_version", "ix_target_running_version"),
        ("SELECT * FROM inbox WHERE pending IS 1 ORDER BY id LIMIT 5", "ix_inbox_pending_id"),
        ("SELECT hash FROM inbox WHERE agent = 'a' AND journal = 'j' AND seq = 4", "sqlite_autoindex_inbox_1"),
        ("SELECT * FROM token WHERE \"group\" IN ('g') ORDER BY since LIMIT 5", "ix_token_group_since"),
        ("SELECT * FROM audit WHERE campaign = 'c' ORDER BY id DESC LIMIT 5", "ix_audit_campaign_id"),
    ],
)
def test_the_hot_queries_use_an_index_and_sort_nothing(engine: Engine, query: str, index: str) -> None:
    with engine.connect() as connection:
        plan = " / ".join(row[-1] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))
    assert index in plan
    assert "TEMP B-TREE" not in plan


async def test_rows_of_the_first_version_go_on_as_they_are(tmp_path: Path) -> None:
    made = make_engine(parse_url(f"sqlite:///{tmp_path}/old.db"), writer=True, size=1)
    with made.begin() as connection:
        command.upgrade(_config(connection), "0001")
        for line in OLD_ROWS:
            connection.execute(text(line))
    made.dispose()
    database = SqlDatabase.open(f"sqlite:///{tmp_path}/old.db")
    release, key, delta, target, view, row = await database.read(
        lambda unit: (
            unit.releases.get("lamp", "2"),
            unit.releases.content_key("lamp", "2"),
            unit.releases.delta("1", "2"),
            unit.fleet.target("t1"),
            unit.campaigns.view("spring"),
            unit.campaigns.assignments("spring").rows[0],
        )
    )
    (revision,) = await database.read(lambda unit: unit.campaigns.revisions("spring"))
    tokens = await database.read(lambda unit: unit.identities.api_tokens())
    await database.close()
    assert [(one.name, one.secret_sha256, one.role, one.expires_at) for one in tokens] == [
        ("anna", "s1", Role.ADMIN, None),
        ("bob", "s2", Role.VIEWER, 9.0),
    ]
    assert len({one.id for one in tokens if one.id}) == 2
    assert release is not None
    assert (release.requires, release.images[0].encrypted, key) == (None, None, None)
    assert delta is not None
    assert (delta.memory_bytes, delta.salt) == (MAX_DELTA_MEMORY, None)
    assert target is not None
    assert (target.running_version, target.running_counter) == ("1", None)
    assert view is not None
    assert (view.row.deltas_until, view.row.strategy.deltas, view.legs) == (None, DeltaPolicy(), ())
    assert (row.state, row.via) == ("trial", None)
    assert (view.row.revision, revision.number, revision.strategy) == (1, 1, view.row.strategy)


OLD_ROWS = (
    "INSERT INTO api_token VALUES ('s1', 'anna', 'admin', NULL)",
    "INSERT INTO api_token VALUES ('s2', 'bob', 'viewer', 9.0)",
    "INSERT INTO release VALUES ('lamp', '2', 2, '[\"hw\"]', 'm.json', 9, 'e', 'r.img', 9, '2', 'active', '', 1.0)",
    "INSERT INTO delta VALUES ('1', '2', 9, 'd.otd', 3, 'd')",
    "INSERT INTO agent VALUES ('t1', 'active', 'k', '{}', '1', 1.0, '')",
    "INSERT INTO target (id, agent, hardware, running_version, rollback_available, settled, version, presence, progress,"
    " capabilities) VALUES ('t1', 't1', 'hw', '1', 0, 0, 1, 0, '', '[]')",
    "INSERT INTO campaign (id, name, change_id, state, release, strategy, selection, seed, cohort, reason_kind, reason,"
    " changed_at, version, created_at, created_by) VALUES ('spring', 'spring', 'c', 'running',"
    ' json(\'{"product": "lamp", "version": "2", "counter": 2, "sha256": "2"}\'),'
    ' json(\'{"name": "s", "cohorts": [{"name": "all"}]}\'), json(\'{"labels": {}}\'), 1, 0,'
    " 'none', '', 1.0, 1, 1.0, 'ann')",
    "INSERT INTO assignment (campaign, target, cohort, rank, state, action, attempt, heard, state_since, reason_kind,"
    " reason, version) VALUES ('spring', 't1', 0, 0, 'trial', 'install', 1, 1, 1.0, 'none', '', 1)",
)
"""As the first version of the tables held them."""


async def test_a_database_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "otaria.db"
    await SqlDatabase.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(RefusedError) as caught:
        SqlDatabase.open(f"sqlite:///{path}")
    assert caught.value.kind == "database-newer"
    assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:///"])
def test_a_url_that_cannot_serve_is_refused(url: str) -> None:
    with pytest.raises(RefusedError) as caught:
        SqlDatabase.open(url)
    assert caught.value.kind == "database-url"


def test_a_file_that_is_no_database_is_a_storage_fault(tmp_path: Path) -> None:
    path = tmp_path / "otaria.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(UnavailableError) as caught:
        SqlDatabase.open(f"sqlite:///{path}")
    assert caught.value.kind == "storage-fault"


def test_a_directory_that_is_not_there_is_a_storage_fault(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        SqlDatabase.open(f"sqlite:///{tmp_path}/none/otaria.db")
    assert caught.value.kind == "storage-fault"


async def test_a_full_disk_is_a_storage_fault_and_keeps_nothing(tmp_path: Path) -> None:
    """SQLite's own limit of pages is the nearest thing to a full disk that needs no root: same error, same rollback."""
    database = SqlDatabase.open(f"sqlite:///{tmp_path}/otaria.db")

    def fill(unit: Unit) -> None:
        for number in range(2000):
            unit.audit.add(at=1.0, kind="k", text="x" * 1000, data={"n": number})

    def limit(unit: Unit) -> None:
        connection = unit.audit._db  # type: ignore[attr-defined]
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count={pages + 20}"))

    await database.write(limit)
    with pytest.raises(UnavailableError) as caught:
        await database.write(fill)
    assert caught.value.kind == "storage-fault"
    assert await database.read(lambda unit: unit.audit.page()) == []
    await database.write(lambda unit: unit.audit.add(at=1.0, kind="k", text="small"))
    assert len(await database.read(lambda unit: unit.audit.page())) == 1
    await database.close()


async def test_foreign_keys_are_held(tmp_path: Path) -> None:
    database = SqlDatabase.open(f"sqlite:///{tmp_path}/otaria.db")

    def work(unit: Unit) -> None:
        unit.identities.add_agent(agent("t1"), hardware="hw", labels={})
        unit.audit._db.execute(text("DELETE FROM agent"))  # type: ignore[attr-defined]

    with pytest.raises(ConflictError):
        await database.write(work)
    assert await database.read(lambda unit: unit.identities.agent("t1")) is None
    await database.close()


async def test_two_processes_on_one_file_take_turns(tmp_path: Path) -> None:
    one = SqlDatabase.open(f"sqlite:///{tmp_path}/otaria.db")
    two = SqlDatabase.open(f"sqlite:///{tmp_path}/otaria.db")
    for number, database in enumerate([one, two, one, two]):
        await database.write(
            lambda unit, n=number: unit.identities.add_agent(agent(f"t{n}"), hardware="hw", labels={})  # type: ignore[misc]
        )
    assert await one.read(lambda unit: unit.fleet.count()) == 4
    await one.close()
    await two.close()


def agent(name: str) -> AgentRecord:
    return AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=name,
        report_key={},
        certificate_serial="1",
        enrolled_at=1.0,
    )


def test_who_was_enrolled_before_certificates_were_noted_has_one(tmp_path: Path) -> None:
    made = make_engine(parse_url(f"sqlite:///{tmp_path}/old.db"), writer=True, size=1)
    with made.begin() as connection:
        command.upgrade(_config(connection), "0001")
        connection.execute(
            text(
                "INSERT INTO agent (id, status, report_keyid, report_key, certificate_serial, enrolled_at, claim_token) "
                "VALUES ('d-a', 'active', 'k', '{}', 'abc', 1000.0, 'c')"
            )
        )
    upgrade(made)
    with made.begin() as connection:
        identities = SqlUnit(connection).identities
        known = identities.certificate("abc")
        assert known is not None
        assert (known.agent, known.issuer, known.issued_at) == ("d-a", "", 1000.0)
        assert known.expires_at == 1000.0 + 3 * 365 * 86400
        assert identities.issuers() == {"": 1}
        assert identities.evicting(10) == []
    made.dispose()


async def test_tables_that_somebody_leads_with_are_left_to_the_leader(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/led.db"
    made = make_engine(parse_url(url), writer=True, size=1)
    with made.begin() as connection:
        command.upgrade(_config(connection), "0021")
        connection.execute(text("UPDATE alembic_version SET version_num = '0020'"))
    made.dispose()
    database = SqlDatabase.open(url, unless_led=True)
    assert (await database.read(lambda unit: unit.leases.get("leader"))).token == 0
    assert await database.read(_revision) == "0020"
    with pytest.raises(UnavailableError):
        await database.upgrade()  # the table is there already: it did try
    await database.close()
    fresh = SqlDatabase.open(f"sqlite:///{tmp_path}/fresh.db", unless_led=True)
    usual = SqlDatabase.open(f"sqlite:///{tmp_path}/usual.db")
    assert await fresh.read(_revision) == await usual.read(_revision)
    await usual.close()
    await fresh.upgrade()
    await fresh.close()


def _revision(unit: Unit) -> object:
    return unit.audit._db.execute(text("SELECT version_num FROM alembic_version")).scalar()  # type: ignore[attr-defined]


def test_records_of_before_the_chains_become_a_chain_of_their_own(tmp_path: Path) -> None:
    made = make_engine(parse_url(f"sqlite:///{tmp_path}/earlier.db"), writer=True, size=1)
    with made.begin() as connection:
        command.upgrade(_config(connection), "0027")
        for number in range(3):
            connection.execute(
                text(
                    "INSERT INTO audit (at, kind, text, actor, target, data) VALUES (:at, 'k', 'ü', 'ann', 't', :data)"
                ),
                {"at": number + 0.1, "data": '{"b":1.50,"a":[null]}'},
            )
    upgrade(made)
    with made.begin() as connection:
        audit = SqlAudit(connection)
        found = audit.chain("earlier", after=0, upto=10, limit=10)
        strand = Strand("earlier", START, lambda fault: pytest.fail(fault.text))
        for one in found:
            strand.take(*body_of_record(one), one.hash)
        head = audit.heads()["earlier"]
        assert (strand.number, strand.hash, head.number) == (3, head.hash, 3)
        audit.add(at=1.0, kind="k", text="new", actor="ann")
        assert [one.number for one in audit.chain("people", after=0, upto=10, limit=10)] == [1]
    made.dispose()
