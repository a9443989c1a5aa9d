"""Pages of a large fleet, filtered and not, in this process: `python -m bench.fleet_list_work URL TARGETS`.

Prints `p50_ms` and `p95_ms` of a page with its count as the API reads them, from the query's text to the JSON of the page, over
all queries and the pages that follow each; `slowest`, the slowest query, with its `slowest_ms`; and `pages`. Besides, what the
metrics cost in the middle: `quick_ms` for what is looked at every 5 s, `fleet_ms` for what is once a minute, and `scrape_ms`.
"""

import asyncio
import json
import sys
import time
from statistics import median, quantiles

import msgspec
from sqlalchemy import Connection, Engine, event, text

from bench.crowd import Device, enrol
from server.observe.following import PAGE
from server.observe.meters import Meters
from server.ports import Unit
from server.ports.querying import parse
from server.storage import SqlDatabase
from server.storage.engines import make_engine, parse_url

FIRST = "d-0000000"
LIMIT = 100
ROUNDS, FOLLOWED, LOOKS = 3, 4, 9
QUERIES = (
    "",
    "site:s-00007",
    'state:failed and label.site:"s-01000" and version<2.1',
    "state:failed",
    "state:(failed, fell_back) and version<2.1",
    "state:verified",
    "state:none",
    "version<2",
    "version>=2.1",
    "version:1.0",
    "version:(1.3, 1.4) and hardware:r2",
    "not version:*",
    "version!=(2.0, 2.1)",
    "hardware:r2 and online:false",
    "online:false",
    "online:true and label.ring:lab",
    "label.ring:lab and hardware:r9",
    "label.ring!=lab and hardware:r2 and online:true",
    "campaign:bench-1 and state:failed",
    "campaign:bench-0 and version<1.2",
    "site:s-000* and online:true",
    "status:quarantined",
    "id:d-0009*",
    "reason:health-check and not online:true",
    "site:s-00007 or site:s-49999 or state:missing",
    "hardware:nothing or label.ring:nothing",
)
"""What fits much, little, and next to nothing; with an index and without; wide apart and all at the end."""
_RUNS = "CASE WHEN n % 50 = 0 THEN NULL WHEN n % 5 = 0 THEN '1.' || (n % 7) ELSE '2.' || (n % 3) END"
_STATE = (
    "CASE WHEN n % 1000 = 3 THEN 'failed' WHEN n % 5000 = 4 THEN 'fell_back' WHEN n % 9000 = 5 THEN 'missing' "
    "WHEN n % 300 = 6 THEN 'ordered' ELSE 'verified' END"
)
_NAME = "'d-' || substr('0000000' || n, -7)"
BUSY = 20_000
"""Messages that wait to be published, which is more than are counted."""
_GROUP = {
    "key": "'site=' || n",
    **dict.fromkeys(("limit", "used", "version"), "1"),
    **dict.fromkeys(("paced_at", "reserved_until", "reservable_at", "bandwidth", "keep"), "0"),
    **dict.fromkeys(("reserved_by", "reserved_for"), "''"),
    "counts_offline": "1 = 0",
}
_VALUES: dict[str, dict[str, str]] = {
    "agent": {
        "id": _NAME,
        "report_keyid": "'key-' || n",
        "status": "CASE WHEN n % 20000 = 9 THEN 'quarantined' ELSE 'active' END",
    },
    "target": {
        "id": _NAME,
        "agent": _NAME,
        "hardware": "CASE WHEN n % 4 = 0 THEN 'r2' ELSE 'r1' END",
        "running_version": _RUNS,
        "presence": "n % 10 <> 0",
        "last_campaign": "CASE WHEN n % 10 = 1 THEN NULL ELSE 'bench-1' END",
    },
}


async def measured(url: str, targets: int) -> dict[str, float | str]:
    """Make a fleet and page through it."""
    database = SqlDatabase.open(url)
    try:
        await database.write(lambda unit: enrol(unit, [Device(name=FIRST)]))
        await database.write(_fill_outbox)
        _multiply(make_engine(parse_url(url), writer=False, size=1), targets)
        took: list[tuple[float, str]] = []
        for turn in range(ROUNDS + 1):
            for query in QUERIES:
                found = await _paged(database, query)
                took += [(one, query) for one in found if turn]  # the first turn fills caches, as a server's are
        watched = await _watched(database)
    finally:
        await database.close()
    times = [one for one, _ in took]
    slowest_ms, slowest = max(took)
    cuts = quantiles(times, n=20)
    return {
        "p50_ms": cuts[9],
        "p95_ms": cuts[18],
        "slowest_ms": slowest_ms,
        "slowest": slowest,
        "pages": len(times),
        **watched,
    }


def _fill_outbox(unit: Unit) -> None:
    for _ in range(BUSY):
        unit.outbox.add("t", b"x")


async def _watched(database: SqlDatabase) -> dict[str, float]:
    """Milliseconds of what the server looks at for its metrics, and of writing them down for a scrape."""
    meters = Meters()
    for role in ("root", "targets", "snapshot", "timestamp"):
        meters.role_expiry.labels(role).set(1)
    took: dict[str, list[float]] = {"quick_ms": [], "fleet_ms": [], "scrape_ms": []}
    for _ in range(LOOKS):
        for name, work in (("quick_ms", _quick), ("fleet_ms", _fleet)):
            began = time.perf_counter()
            await database.read(work)
            took[name].append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        meters.text()
        took["scrape_ms"].append((time.perf_counter() - began) * 1000)
    return {name: median(found) for name, found in took.items()}


def _quick(unit: Unit) -> None:
    """As `server.observe.watching` does every few seconds."""
    seen = unit.observations
    seen.queues(), seen.budgets(), seen.campaigns(), seen.cohorts()
    seen.trail(seen.trail_end(), PAGE)


def _fleet(unit: Unit) -> None:
    """As it does once a minute."""
    unit.observations.fleet(), unit.fleet.drifted()


async def _paged(database: SqlDatabase, query: str) -> list[float]:
    """Milliseconds of the first pages of a query."""
    took, cursor = [], None
    for _ in range(FOLLOWED):
        began = time.perf_counter()
        cursor = await _page(database, query, cursor)
        took.append((time.perf_counter() - began) * 1000)
        if cursor is None:
            break
    return took


async def _page(database: SqlDatabase, asked: str, cursor: str | None) -> str | None:
    query = parse(asked)
    page, count = await database.read(
        lambda unit: (
            unit.fleet.page(cursor=cursor, limit=LIMIT, query=query),
            unit.fleet.fitting(query) if cursor is None else None,
        )
    )
    msgspec.json.encode({"targets": page.rows, "next": page.next, "count": count})
    return page.next


def _multiply(engine: Engine, targets: int) -> None:
    """Copy the first device until there are so many, in two campaigns; what differs is made by the database."""
    if engine.dialect.name == "sqlite":
        # The campaigns' own rows are left out, which no query looks at.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=OFF"))
    with engine.begin() as db:
        if db.dialect.name == "postgresql":
            db.execute(text("SET session_replication_role = replica"))
        for table, values in _VALUES.items():
            _copied(db, table, values, targets)
        for name, value, which in (
            ("site", "'s-' || substr('00000' || (n / 20), -5)", "1 = 1"),
            ("ring", "'lab'", "n % 100 = 7"),
        ):
            _insert(db, "target_label", {"target": _NAME, "name": f"'{name}'", "value": value}, targets, which)
        for campaign in ("bench-0", "bench-1"):
            state = "CASE WHEN n % 200 = 3 THEN 'failed' ELSE 'verified' END" if campaign == "bench-0" else _STATE
            _insert(db, "assignment", _assignment(campaign, state), targets, "1 = 1")
        _insert(db, "budget_group", _GROUP, targets // 20, "1 = 1")
    with engine.connect() as db:
        if db.dialect.name == "postgresql":
            db.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _assignment(campaign: str, state: str) -> dict[str, str]:
    given = {"campaign": f"'{campaign}'", "target": _NAME, "state": state, "rank": "n", "action": "'install'"}
    none = dict.fromkeys(("cohort", "attempt", "retries", "block_size", "corrections", "version"), "0")
    said = {"reason_kind": "CASE WHEN n % 1000 = 3 THEN 'health-check' ELSE 'none' END", "reason": "''"}
    return {
        **given,
        **none,
        **said,
        "heard": "1 = 1",
        "compared": "1 = 0",
        "state_since": "0",
        "traits": "'{}'",
        "back_reason": "''",
    }


def _copied(db: Connection, table: str, values: dict[str, str], targets: int) -> None:
    names = list(db.execute(text(f"SELECT * FROM {table} LIMIT 0")).keys())  # noqa: S608 - our own names
    chosen = ", ".join(values.get(name, f'{table}."{name}"') for name in names)
    listed = ", ".join(f'"{name}"' for name in names)
    copy = f"INSERT INTO {table} ({listed}) SELECT {chosen} FROM number, {table} WHERE id = '{FIRST}'"  # noqa: S608
    db.execute(text(_numbered(copy, db)), {"last": targets - 1})


def _insert(db: Connection, table: str, values: dict[str, str], targets: int, which: str) -> None:
    listed, chosen = ", ".join(f'"{name}"' for name in values), ", ".join(values.values())
    new = f"INSERT INTO {table} ({listed}) SELECT {chosen} FROM number WHERE {which}"  # noqa: S608
    db.execute(text(_numbered(new, db)), {"last": targets - 1})


def _numbered(statement: str, db: Connection) -> str:
    """With `number`, of n from 1 on; the statement's text as the database takes it."""
    if db.dialect.name == "postgresql":
        as_text = statement.replace("substr('0000000' || n, -7)", "lpad(n::text, 7, '0')")
        as_text = as_text.replace("substr('00000' || (n / 20), -5)", "lpad((n / 20)::text, 5, '0')")
        return as_text.replace(" FROM number", " FROM generate_series(1, :last) AS number(n)").replace(
            "'{}'", "'{}'::json"
        )
    series = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :last) "
    return series + statement


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measured(sys.argv[1], int(sys.argv[2])))))
