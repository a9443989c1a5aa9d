"""Which targets a selection takes, by the database."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from server.planner.decision import Decision, Put
from server.planner.selection import Match, Selection
from server.planner.slices import Footprint
from server.planner.words import AssignmentState
from server.ports import Unit
from server.storage import SqlDatabase
from tests.contract.storage.rows import CAMPAIGN, COHORTS, assignment, enrol

BERLIN_LAB = Match(labels={"site": "berlin", "ring": "lab"})
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "t1 t2 t3 t4"),
    ({"labels": {"site": "berlin"}}, "t1 t2"),
    ({"labels": {"site": ("berlin", "ulm")}}, "t1 t2 t3"),
    ({"labels": {"site": "berlin", "ring": "lab"}}, "t1"),
    ({"hardware": ("hw-2", "hw-9")}, "t4"),
    ({"versions": ("1.0", "1.1")}, "t1 t2"),
    ({"targets": ("t2", "t9")}, "t2"),
    ({"labels": {"site": "berlin"}, "versions": ("1.1",)}, "t2"),
    ({"exclude": (BERLIN_LAB, Match(hardware=("hw-2",)))}, "t2 t3"),
    ({"exclude": (Match(versions=("1.0",)),)}, "t2 t3 t4"),
    ({"exclude": (Match(targets=("t3", "t4")),), "labels": {"site": ("ulm", "berlin")}}, "t1 t2"),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


def some(unit: Unit) -> None:
    """Four targets; two never said what they run."""
    enrol(unit, "t1", site="berlin", ring="lab")
    enrol(unit, "t2", site="berlin")
    enrol(unit, "t3", site="ulm")
    enrol(unit, "t4", hardware="hw-2", site="bonn")
    for name, version in (("t1", "1.0"), ("t2", "1.1")):
        row = unit.campaigns.load(Footprint(target=name)).target
        assert row is not None
        unit.campaigns.commit(Decision(changes=(Put(row=replace(row, running_version=version)),)))


@pytest.mark.parametrize(("values", "chosen"), CASES)
async def test_it_takes_who_fits_all_of_it_and_no_exception(
    database: SqlDatabase, values: dict[str, Any], chosen: str
) -> None:
    await database.write(some)
    found = await database.read(lambda unit: unit.campaigns.eligible("lamp", ["hw-1", "hw-2"], Selection(**values)))
    assert " ".join(found) == chosen


async def test_who_comes_back_dropped_out_for_want_of_being_selected(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        enrol(unit, "t1", "t2", "t3", "t4", site="berlin")
        unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
        out = {"state": AssignmentState.SKIPPED, "reason_kind": "deselected"}
        left = {"state": AssignmentState.SKIPPED, "reason_kind": "left-out"}
        rows = [assignment("t1", 0, 0, **out), assignment("t2", 0, 1, **out), assignment("t3", 0, 2, **left)]
        unit.campaigns.add_assignments([*rows, assignment("t4", 0, 3)])

    await database.write(work)
    berlin, other = Selection(labels={"site": "berlin"}), Selection(targets=("t2", "t3", "t4"))

    async def found(selection: Selection, limit: int = 9, hardware: str = "hw-1") -> str:
        rows = await database.read(lambda unit: unit.campaigns.returners("spring", [hardware], selection, limit))
        return " ".join(rows)

    assert await found(berlin) == "t1 t2"
    assert await found(berlin, 1) == "t1"
    assert await found(other) == "t2"
    assert await found(berlin, hardware="hw-2") == ""


async def test_newcomers_fit_and_are_not_in_it_and_leavers_are_planned_and_do_not_fit(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        enrol(unit, "t1", "t2", "t3", "new-1", "new-2", site="berlin")
        unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
        ordered = assignment("t1", 0, 0, state=AssignmentState.ORDERED)
        unit.campaigns.add_assignments([ordered, assignment("t2", 1), assignment("t3", 0)])

    await database.write(work)
    berlin, nobody = Selection(labels={"site": "berlin"}), Selection(targets=("new-1",))

    async def found(look: Callable[[Any], Any]) -> str:
        return " ".join(await database.read(lambda unit: look(unit.campaigns)))

    assert await found(lambda one: one.newcomers("spring", ["hw-1"], berlin, 9)) == "new-1 new-2"
    assert await found(lambda one: one.newcomers("spring", ["hw-1"], berlin, 1)) == "new-1"
    assert await found(lambda one: one.newcomers("spring", ["hw-2"], berlin, 9)) == ""
    assert await found(lambda one: one.returners("spring", ["hw-1"], berlin, 9)) == ""
    assert await found(lambda one: one.leavers("spring", nobody, 9)) == "t2 t3"
    assert await found(lambda one: one.leavers("spring", nobody, 1)) == "t2"
    assert await found(lambda one: one.leavers("spring", berlin, 9)) == ""
    assert await found(lambda one: one.leavers("spring", Selection(), 9)) == ""
