"""Numbers for whoever watches the server, on SQLite and PostgreSQL."""

from msgspec.structs import replace

from server.planner.decision import Decision, Put
from server.planner.rows import GroupRow
from server.planner.slices import Footprint
from server.planner.words import CohortState
from server.ports import Budgets, Course, FleetCounts, Queues, Unit
from server.storage import SqlDatabase
from tests.contract.storage.rows import COHORTS, RELEASE, plan


class TestObservations:
    async def test_an_empty_server_has_nothing_to_tell(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            seen = unit.observations
            assert seen.queues() == Queues(inbox=0, inbox_since=None, outbox=0, outbox_first=None)
            assert seen.budgets() == Budgets(groups=0, full=0, exceeded=0)
            assert seen.fleet() == FleetCounts(targets=0, online=0)
            assert (dict(seen.campaigns()), dict(seen.cohorts()), dict(seen.courses([]))) == ({}, {}, {})
            assert (seen.trail_end(), list(seen.trail(0, 10))) == (0, [])

        await database.read(work)

    async def test_what_waits_is_counted_and_how_long_the_oldest_did(self, database: SqlDatabase) -> None:
        def fill(unit: Unit) -> None:
            plan(unit)
            for number in range(3):
                unit.inbox.add_ask(f"t{number + 1}", f"hash-{number}", {}, 100.0 + number)
            for number in range(2):
                unit.outbox.add(f"topic/{number}", b"x")
            unit.fleet.set_presence("t2", online=True, at=5.0)

        await database.write(fill)
        queues = await database.read(lambda unit: unit.observations.queues())
        assert (queues.inbox, queues.inbox_since, queues.outbox) == (3, 100.0, 2)
        first = await database.read(lambda unit: unit.outbox.pending(1)[0])
        assert queues.outbox_first == first.id
        oldest = await database.read(lambda unit: unit.inbox.unprocessed(1)[0])
        await database.write(lambda unit: unit.inbox.mark_processed(oldest.id))
        await database.write(lambda unit: unit.outbox.done([first.id]))
        queues = await database.read(lambda unit: unit.observations.queues())
        assert (queues.inbox, queues.inbox_since, queues.outbox) == (2, 101.0, 1)
        assert await database.read(lambda unit: unit.observations.fleet()) == FleetCounts(targets=3, online=1)

    async def test_budgets_that_are_full_and_that_are_broken(self, database: SqlDatabase) -> None:
        rows = [GroupRow(key=f"site={used}-{limit}", limit=limit, used=used) for used, limit in GROUPS]
        await database.write(plan)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in rows))))
        found = await database.read(lambda unit: unit.observations.budgets())
        assert found == Budgets(groups=3, full=2, exceeded=1)

    async def test_campaigns_and_cohorts_by_state(self, database: SqlDatabase) -> None:
        await database.write(plan)
        passed = replace(COHORTS[0], state=CohortState.PASSED)

        def work(unit: Unit) -> None:
            held = unit.campaigns.load(Footprint(campaign="spring")).cohorts[0]
            unit.campaigns.commit(Decision(changes=(Put(row=replace(passed, version=held.version)),)))
            assert dict(unit.observations.campaigns()) == {"draft": 1}
            assert dict(unit.observations.cohorts()) == {("canary", "passed"): 1, ("wave", "closed"): 1}

        await database.write(work)

    async def test_lines_of_the_trail_after_one_and_the_courses_they_are_about(self, database: SqlDatabase) -> None:
        def fill(unit: Unit) -> None:
            plan(unit)
            unit.releases.add(RELEASE)
            unit.inbox.add_ask("t1", "h1", {}, 100.0)
            unit.inbox.mark_processed(unit.inbox.unprocessed(1)[0].id)
            unit.inbox.add_ask("t1", "h2", {}, 104.0)
            held = unit.campaigns.load(Footprint(campaign="spring", target="t1"))
            assert held.assignment is not None
            unit.campaigns.commit(
                Decision(
                    changes=(
                        Put(row=replace(held.assignment, permitted_at=105.0)),
                        Put(row=replace(held.cohorts[0], opened_at=50.0)),
                    )
                )
            )
            for kind, target in (("cohort-opened", None), ("verified", "t1"), ("verified", "t9")):
                unit.audit.add(at=9.0, kind=kind, text="", campaign="spring", target=target)

        await database.write(fill)

        def look(unit: Unit) -> None:
            seen = unit.observations
            events = list(seen.trail(0, 10))
            assert [(one.kind, one.target) for one in events[-3:]] == [
                ("cohort-opened", None),
                ("verified", "t1"),
                ("verified", "t9"),
            ]
            assert seen.trail_end() == events[-1].id
            assert list(seen.trail(events[-2].id, 10)) == events[-1:]
            assert list(seen.trail(0, 1)) == events[:1]
            courses = seen.courses([("spring", "t1"), ("spring", "t9"), ("winter", "t1")])
            published = unit.releases.get("lamp", "2")
            assert published is not None
            assert dict(courses) == {
                ("spring", "t1"): Course(
                    published_at=published.published_at, opened_at=50.0, asked_at=104.0, permitted_at=105.0
                )
            }

        await database.read(look)


GROUPS = ((1, 3), (3, 3), (4, 3), (5, 0))
