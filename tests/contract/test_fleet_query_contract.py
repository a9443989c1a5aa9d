"""Which targets a query finds, by the database, held against the same query asked of plain values."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count, product

import pytest
from hypothesis import settings
from msgspec.structs import replace

from firmware.errors import RefusedError
from server.planner.decision import Decision, Put
from server.planner.slices import Footprint
from server.planner.versions import version_key
from server.planner.words import AssignmentState
from server.ports import AgentStatus, Unit
from server.ports.querying import NONE, UNKNOWN, All, Not, Op, Query, Some, Term, Value, parse
from server.storage import SqlDatabase, fleet_query
from tests.contract.storage.rows import CAMPAIGN, COHORTS, assignment, enrol

VERSIONS = ("1.0", "1.9", "1.10", "2.0-rc1", "2.0", None)
SITES = ("Ulm", "ulm", "Köln", "a*b", 'q"\\')
STATES = ("failed", "verified", "planned", "ordered", None)
BOUNDS, OPS = ("1.0", "1.10", "2.0", "2.1", "0"), (":", "!=", "<", "<=", ">", ">=")
QUERIES = min(250, 2 * settings().max_examples)
"""Of a dozen mutants that any of 250 finds, the slowest is found by the 85th."""


@dataclass
class Plain:
    """What a query may look at."""

    id: str
    version: str | None
    hardware: str
    state: str | None
    status: str
    online: bool
    labels: dict[str, str] = field(default_factory=dict)

    def fits(self, query: Query) -> bool:
        match query:
            case All():
                return all(map(self.fits, query.parts))
            case Some():
                return any(map(self.fits, query.parts))
            case Not():
                return not self.fits(query.part)
        found = any(self._has(query, value) for value in query.values)
        return not found if query.op is Op.IS_NOT else found

    def _has(self, term: Term, value: Value) -> bool:
        if term.field == "version" and term.op not in (Op.IS, Op.IS_NOT):
            if self.version is None:
                return False
            mine, bound = version_key(self.version), version_key(value.text)
            return {
                Op.LESS: mine < bound,
                Op.AT_MOST: mine <= bound,
                Op.MORE: mine > bound,
                Op.AT_LEAST: mine >= bound,
            }[term.op]
        own = {
            "id": self.id,
            "version": self.version,
            "hardware": self.hardware,
            "state": self.state,
            "status": self.status,
            "online": "true" if self.online else "false",
            "campaign": None if self.state is None else "spring",
            "reason": None if self.state is None else "none",
            "product": None,
            "label": self.labels.get(term.label),
        }[term.field]
        if own is None:
            return not value.begins and (term.field, value.text) in (("version", UNKNOWN), ("state", NONE))
        return own.startswith(value.text) if value.begins else own == value.text


def fleet_of(number: int) -> list[Plain]:
    """Targets with everything mixed, the same each time."""
    chance = random.Random(6)
    found = []
    for index in range(number):
        labels = {"site": chance.choice(SITES)} if chance.random() < 0.8 else {}
        if chance.random() < 0.3:
            labels["ring"] = "lab"
        found.append(
            Plain(
                id=f"t{index:03}",
                version=chance.choice(VERSIONS),
                hardware=chance.choice(("hw-1", "hw-2")),
                state=chance.choice(STATES),
                status=chance.choice(("active", "active", "active", "quarantined", "revoked")),
                online=chance.random() < 0.5,
                labels=labels,
            )
        )
    return found


def store(unit: Unit, fleet: list[Plain]) -> None:
    unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
    old = replace(CAMPAIGN, id="winter", change_id="winter")
    unit.campaigns.create(
        old, "winter", [replace(one, campaign="winter") for one in COHORTS], created_at=1.0, created_by="ann"
    )
    for rank, plain in enumerate(fleet):
        enrol(unit, plain.id, hardware=plain.hardware, **plain.labels)
        failed = assignment(plain.id, 0, rank, state=AssignmentState.FAILED)
        unit.campaigns.add_assignments([replace(failed, campaign="winter")])
        if plain.state is not None:
            unit.campaigns.add_assignments([assignment(plain.id, 0, rank, state=AssignmentState(plain.state))])
        row = unit.campaigns.load(Footprint(target=plain.id)).target
        assert row is not None
        runs = replace(row, running_version=plain.version, holder="spring" if plain.state is not None else None)
        unit.campaigns.commit(Decision(changes=(Put(row=runs),)))
        unit.fleet.set_presence(plain.id, online=plain.online, at=1.0)
        unit.identities.set_agent_status(plain.id, AgentStatus(plain.status))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


def some_terms(chance: random.Random) -> str:
    """A term such as people write."""
    return chance.choice(
        [
            f"version{chance.choice(OPS)}{chance.choice(BOUNDS)}",
            "version:(1.0, unknown)",
            "version:1.*",
            "version!=*",
            f"hardware:{chance.choice(['hw-1', 'hw-2', 'hw-9', '(hw-1, hw-2)', 'hw*'])}",
            f"state:{chance.choice(['failed', 'verified', 'none', '(failed, ordered)', '(planned, failed)'])}",
            "state!=(failed, none)",
            f"site:{chance.choice(['Ulm', 'ulm', 'K*', '*', 'a*', '(Ulm, ulm)'])}",
            'label.site:"a*b"',
            r'site:"q\"\\"',
            "label.ring:lab",
            "label.ring!=lab",
            f"online:{chance.choice(['true', 'false'])}",
            f"status:{chance.choice(['active', 'quarantined', '(revoked, quarantined)'])}",
            "campaign:spring",
            "campaign:winter",
            "reason:none",
            "product:lamp",
            "id:(t001, t007, x)",
            "id:t00*",
        ]
    )


def some_query(chance: random.Random, depth: int = 2) -> str:
    """A query of such terms."""
    if depth == 0 or chance.random() < 0.3:
        return some_terms(chance)
    if chance.random() < 0.2:
        return f"not ({some_query(chance, depth - 1)})"
    joint = chance.choice([" and ", " or ", " "])
    parts = [some_query(chance, depth - 1) for _ in range(chance.choice([2, 2, 3]))]
    return f"({joint.join(parts)})"


async def test_a_query_finds_exactly_who_fits_page_by_page(
    database: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With windows so small that pages come short."""
    monkeypatch.setattr(fleet_query, "SCAN", 16)
    fleet, chance = fleet_of(60), random.Random(7)
    await database.write(lambda unit: store(unit, fleet))

    def look(unit: Unit) -> int:
        sizes = set()
        compared = [f"version{op}{bound}" for op, bound in product(OPS, BOUNDS)]
        for text in (*compared, *(some_query(chance) for _ in range(QUERIES))):
            query = parse(text)
            expected = [plain.id for plain in fleet if plain.fits(query)]
            for limit in (3, 1000):
                found, cursor = [], None
                for _turn in count():
                    assert _turn < 80, text
                    page = unit.fleet.page(cursor=cursor, limit=limit, query=query)
                    assert len(page.rows) <= limit
                    found += [view.id for view in page.rows]
                    cursor = page.next
                    if cursor is None:
                        break
                assert found == expected, text
            assert unit.fleet.fitting(query, most=1000) == (len(expected), True), text
            sizes.add(len(expected))
        return len(sizes)

    assert await database.read(look) > 20, "the queries must differ in what they find"


async def test_counts_stop_where_they_were_told_to(database: SqlDatabase) -> None:
    await database.write(lambda unit: enrol(unit, *(f"t{number}" for number in range(7)), site="ulm"))

    def look(unit: Unit) -> list[tuple[int, bool]]:
        return [unit.fleet.fitting(parse(text), most=5) for text in ("", "site:ulm", "site:bonn", "not site:ulm")]

    assert await database.read(look) == [(5, False), (5, False), (0, True), (0, False)]


async def test_too_many_versions_to_compare_are_named_instead(
    database: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_query, "MAX_VERSIONS", 3)
    await database.write(lambda unit: store(unit, fleet_of(30)))
    with pytest.raises(RefusedError) as caught:
        await database.read(lambda unit: unit.fleet.page(query=parse("version<3")))
    assert caught.value.kind == "bad-query"
