"""Targets, what they report, and their legs, on SQLite and PostgreSQL."""

import dataclasses

import pytest
from msgspec.structs import replace

from server.planner.decision import Decision, Put
from server.planner.slices import Footprint
from server.planner.words import AssignmentState, CampaignState
from server.ports import (
    DeltaNeed,
    DeltaRecord,
    Leg,
    Origin,
    StoredFile,
    Unit,
)
from server.ports.querying import parse
from server.storage import SqlDatabase
from tests.contract.storage.rows import assignment, enrol, plan


class TestFleet:
    async def test_pages_cover_each_target_once(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, *(f"t{number}" for number in range(5))))
        seen, cursor = [], None
        while True:
            page = await database.read(lambda unit, at=cursor: unit.fleet.page(cursor=at, limit=2))  # type: ignore[misc]
            seen += [view.id for view in page.rows]
            cursor = page.next
            if cursor is None:
                break
        assert seen == ["t0", "t1", "t2", "t3", "t4"]

    async def test_filters(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            enrol(unit, "x1", hardware="hw-2", site="paris")
            loaded = unit.campaigns.load(Footprint(campaign="spring", target="t2"))
            assert loaded.target is not None
            held = replace(loaded.target, holder="spring", running_version="7", running_sha256="7" * 64)
            unit.campaigns.commit(Decision(changes=(Put(row=held),)))

        await database.write(work)

        pages = {
            query: await database.read(lambda unit, q=query: unit.fleet.page(query=parse(q)))  # type: ignore[misc]
            for query in [
                "hardware:hw-2",
                "label.site:berlin",
                "version:7",
                "version:unknown",
                "campaign:spring",
                "state:planned",
                "label.site:%",
            ]
        }
        ids = {query: [view.id for view in page.rows] for query, page in pages.items()}
        assert ids == {
            "hardware:hw-2": ["x1"],
            "label.site:berlin": ["t1", "t2", "t3"],
            "version:7": ["t2"],
            "version:unknown": ["t1", "t3", "x1"],
            "campaign:spring": ["t2"],
            "state:planned": ["t2"],
            "label.site:%": [],
        }
        assert await database.read(lambda unit: unit.fleet.versions()) == {"7": 1, "unknown": 3}
        assert await database.read(lambda unit: unit.fleet.images()) == {"7" * 64: 1}

    async def test_hints_are_noted_and_never_touch_the_planner_s_version(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1", site="berlin"))

        def work(unit: Unit) -> None:
            unit.fleet.set_presence("t1", online=True, at=4.0)
            unit.fleet.set_progress("t1", "downloading 40 %")
            labels = {"site": "paris", "rack": "4"}
            unit.fleet.set_inventory("t1", labels=labels, capabilities=["delta-otd1"], encryption_key="A" * 43)

        await database.write(work)
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.presence, target.presence_at, target.progress) == (True, 4.0, "downloading 40 %")
        assert (target.capabilities, target.encryption_key) == (("delta-otd1",), "A" * 43)
        assert target.labels == {"site": "berlin", "agent.site": "paris", "agent.rack": "4"}
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target is not None
        assert (loaded.target.version, loaded.target.groups) == (1, ("agent.rack=4", "agent.site=paris", "site=berlin"))
        await database.write(lambda unit: unit.fleet.forget_presence())
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.presence, target.presence_at) == (False, 4.0)
        await database.write(lambda unit: unit.fleet.set_inventory("t1", labels={}, capabilities=[]))
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.labels, target.encryption_key) == ({"site": "berlin"}, None)

    async def test_a_report_ends_the_progress_before_it(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1"))
        await database.write(lambda unit: unit.fleet.set_progress("t1", "downloading 40 %"))
        await database.write(lambda unit: unit.fleet.note_report("t1", at=8.0, slot="B", previous_version="1"))
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.progress, target.last_report_at) == ("", 8.0)
        assert (target.running_slot, target.previous_version) == ("B", "1")
        assert (target.running_product, target.running_counter) == (None, None)
        await database.write(
            lambda unit: unit.fleet.note_report(
                "t1", at=9.0, slot="B", previous_version="1", product="lamp", counter=(1 << 53) - 1
            )
        )
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.running_product, target.running_counter) == ("lamp", (1 << 53) - 1)


class TestLegs:
    LEG = Leg(
        campaign="spring",
        rank=0,
        source_sha256="1" * 64,
        source_version="1",
        target_sha256="a" * 64,
        target_version="2",
        image_bytes=1 << 40,
        targets=3,
        capable=2,
        need=DeltaNeed.WANTED,
    )

    @pytest.fixture
    async def started(self, database: SqlDatabase) -> SqlDatabase:
        def work(unit: Unit) -> None:
            plan(unit)
            row = unit.campaigns.load(Footprint(campaign="spring")).campaign
            assert row is not None
            running = replace(row, state=CampaignState.RUNNING, deltas_until=9.0)
            unit.campaigns.commit(Decision(changes=(Put(row=running),)))

        await database.write(work)
        return database

    async def test_they_come_by_rank_with_the_deltas_that_are_there(self, started: SqlDatabase) -> None:
        later = dataclasses.replace(
            self.LEG, rank=1, source_sha256="3" * 64, need=DeltaNeed.LEFT_OUT, reason="Nobody can."
        )
        await started.write(lambda unit: unit.campaigns.set_legs("spring", [later, self.LEG]))
        assert await started.read(lambda unit: unit.campaigns.legs("spring")) == (self.LEG, later)
        file = StoredFile(path="deltas/1-2.otd", length=77, sha256="d" * 64)
        delta = DeltaRecord(file=file, source_sha256="1" * 64, source_length=7, target_sha256="a" * 64)
        await started.write(lambda unit: unit.releases.add_delta(delta))
        view = await started.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.legs == (dataclasses.replace(self.LEG, delta_bytes=77), later)
        await started.write(lambda unit: unit.campaigns.set_legs("spring", [later]))
        assert await started.read(lambda unit: unit.campaigns.legs("spring")) == (later,)

    async def test_what_is_wanted_next_and_who_waits_for_nothing_more(self, started: SqlDatabase) -> None:
        second = dataclasses.replace(self.LEG, rank=1, source_sha256="3" * 64)
        await started.write(lambda unit: unit.campaigns.set_legs("spring", [self.LEG, second]))
        for expected in (self.LEG, second):
            assert await started.read(lambda unit: unit.campaigns.next_leg()) == expected
            assert await started.read(lambda unit: unit.campaigns.awaiting_deltas()) == []
            await started.write(lambda unit, leg=expected: unit.campaigns.settle_leg(leg, DeltaNeed.REFUSED, "No."))  # type: ignore[misc]
        assert await started.read(lambda unit: unit.campaigns.next_leg()) is None
        assert await started.read(lambda unit: unit.campaigns.awaiting_deltas()) == ["spring"]
        legs = await started.read(lambda unit: unit.campaigns.legs("spring"))
        assert [(leg.need, leg.reason) for leg in legs] == [(DeltaNeed.REFUSED, "No.")] * 2

    @pytest.mark.parametrize("state", [CampaignState.ABORTED, CampaignState.DRAFT, CampaignState.ROLLING_BACK])
    async def test_a_campaign_that_is_not_going_wants_nothing(self, started: SqlDatabase, state: CampaignState) -> None:
        def work(unit: Unit) -> None:
            unit.campaigns.set_legs("spring", [self.LEG])
            row = unit.campaigns.load(Footprint(campaign="spring")).campaign
            assert row is not None
            unit.campaigns.commit(Decision(changes=(Put(row=replace(row, state=state)),)))

        await started.write(work)
        assert await started.read(lambda unit: unit.campaigns.next_leg()) is None
        assert await started.read(lambda unit: unit.campaigns.awaiting_deltas()) == []

    async def test_origins_count_the_planned_targets_that_are_alike(self, started: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            for name, version in (("t1", "7"), ("t2", "7")):
                loaded = unit.campaigns.load(Footprint(campaign="spring", target=name))
                assert loaded.target is not None
                runs = replace(loaded.target, running_version=version, running_sha256=version * 64)
                unit.campaigns.commit(Decision(changes=(Put(row=runs),)))
                unit.fleet.note_report(name, at=1.0, slot="A", previous_version=None, product="lamp", counter=7)
            unit.fleet.set_inventory("t1", labels={}, capabilities=["b", "a"])
            unit.fleet.set_inventory("t2", labels={}, capabilities=["a", "b"])
            enrol(unit, "t4")
            unit.campaigns.add_assignments([assignment("t4", 9, state=AssignmentState.SKIPPED)])

        await started.write(work)
        known = Origin(hardware="hw-1", sha256="7" * 64, product="lamp", counter=7, capabilities=("a", "b"))
        unknown = Origin(hardware="hw-1", sha256=None, product=None, counter=None, capabilities=())
        assert await started.read(lambda unit: unit.campaigns.origins("spring")) == {known: 2, unknown: 1}
