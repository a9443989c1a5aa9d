"""The contract of `server.ports.Database`, held against SQLite in a real file and a real PostgreSQL."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import Counter
from firmware.protocol.words import Action
from server.errors import ConflictError
from server.planner.decision import Decision, Delete, Put
from server.planner.download_line import line_of
from server.planner.downloads import place_group
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, GroupRow, ReleaseKey, TokenRow, campaign_group
from server.planner.selection import Selection
from server.planner.slices import Footprint
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, PreconditionPolicy, Strategy
from server.planner.surroundings import Rival, Surroundings, Word
from server.planner.words import AssignmentState, CampaignState, CohortState, TokenKind
from server.ports import (
    AgentRecord,
    AgentStatus,
    ApiToken,
    Before,
    ClaimToken,
    DeltaNeed,
    DeltaRecord,
    EncryptedImage,
    KnownDevice,
    Leg,
    Origin,
    ReleaseImage,
    ReleaseRecord,
    ReleaseState,
    Requirements,
    Role,
    SeqVerdict,
    StoredFile,
    StoredOrder,
    Unit,
)
from server.ports.querying import parse
from server.storage import SqlDatabase

STRATEGY = Strategy(
    name="careful",
    cohorts=(
        CohortPolicy(name="canary", count=1, gate=GatePolicy(kind="rate", max_failure_rate=0.25)),
        CohortPolicy(name="rest", percent=12.5),
    ),
    budgets=(BudgetPolicy(by="site", limit=3),),
    patience_s=12.5,
)
CAMPAIGN = CampaignRow(
    id="spring",
    change_id="chg-1",
    state=CampaignState.DRAFT,
    release=ReleaseKey(product="lamp", version="2", counter=2, sha256="a" * 64),
    strategy=STRATEGY,
    seed=(1 << 53) - 1,
)
COHORTS = (
    CohortRow(campaign="spring", index=0, name="canary", state=CohortState.CLOSED, size=1),
    CohortRow(
        campaign="spring",
        index=1,
        name="rest",
        state=CohortState.CLOSED,
        size=2,
        counts={AssignmentState.PLANNED: 2},
    ),
)
RELEASE = ReleaseRecord(
    product="lamp",
    version="2",
    counter=2,
    hardware=("hw-1", "hw-2"),
    manifest=StoredFile(path="releases/lamp/2/manifest.json", length=10, sha256="b" * 64),
    images=(ReleaseImage(file=StoredFile(path="releases/lamp/2/image", length=1 << 40, sha256="a" * 64)),),
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


def agent(name: str, **changes: object) -> AgentRecord:
    made = AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=f"key-{name}",
        report_key={"keytype": "ed25519", "keyval": {"public": name}},
        certificate_serial="1",
        enrolled_at=1.5,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def enrol(unit: Unit, *names: str, hardware: str = "hw-1", **labels: str) -> None:
    for name in names:
        unit.identities.add_agent(agent(name), hardware=hardware, labels=labels)


def assignment(target: str, rank: int, cohort: int = 1, **changes: object) -> AssignmentRow:
    made = AssignmentRow(
        campaign="spring", target=target, cohort=cohort, rank=rank, state=AssignmentState.PLANNED, state_since=5.0
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def plan(unit: Unit) -> None:
    enrol(unit, "t1", "t2", "t3", site="berlin")
    unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
    unit.campaigns.add_assignments([assignment("t1", 0, 0), assignment("t2", 1), assignment("t3", 0)])


class TestTransactions:
    async def test_an_exception_rolls_all_of_a_write_back(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await database.write(work)
        assert await database.read(lambda unit: unit.fleet.count()) == 0

    async def test_what_a_read_writes_is_not_kept(self, database: SqlDatabase) -> None:
        await database.read(lambda unit: enrol(unit, "t1"))
        assert await database.read(lambda unit: unit.fleet.count()) == 0

    async def test_writes_are_serialised_and_none_is_lost(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: plan(unit))

        def step(unit: Unit) -> None:
            row = unit.campaigns.load(Footprint(campaign="spring")).campaign
            assert row is not None
            unit.campaigns.commit(Decision(changes=(Put(row=replace(row, cohort=row.cohort + 1)),)))

        await asyncio.gather(*(database.write(step) for _ in range(20)))
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert (view.row.cohort, view.row.version) == (20, 21)

    async def test_a_reader_sees_what_is_committed_while_a_writer_is_busy(self, database: SqlDatabase) -> None:
        loop = asyncio.get_running_loop()
        inside, leave = asyncio.Event(), asyncio.Event()

        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            loop.call_soon_threadsafe(inside.set)
            asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(10)

        writing = asyncio.create_task(database.write(work))
        await inside.wait()
        assert await database.read(lambda unit: unit.fleet.count()) == 0
        leave.set()
        await writing
        assert await database.read(lambda unit: unit.fleet.count()) == 1

    async def test_everything_is_there_after_reopening(self, database: SqlDatabase, database_url: str) -> None:
        await database.write(plan)
        again = SqlDatabase.open(database_url)
        view = await again.read(lambda unit: unit.campaigns.view("spring"))
        await again.close()
        assert view is not None
        assert view.row == replace(CAMPAIGN, version=1)

    async def test_a_closed_database_says_so(self, database: SqlDatabase) -> None:
        await database.close()
        with pytest.raises(UnavailableError) as caught:
            await database.write(lambda unit: unit.fleet.count())
        assert caught.value.kind == "storage-fault"


class TestIdentities:
    CLAIM = ClaimToken(id="c1", secret_sha256="s" * 64, expires_at=100.0, uses_left=1, labels={"site": "x"})

    async def test_a_claim_is_spent_once(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: unit.identities.add_claim(self.CLAIM))
        spent = await database.write(lambda unit: unit.identities.spend_claim("c1", "s" * 64, 99.0))
        assert spent == dataclasses.replace(self.CLAIM, uses_left=0)
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.identities.spend_claim("c1", "s" * 64, 99.0))
        assert caught.value.kind == "claim-used-up"

    @pytest.mark.parametrize(
        ("claim", "secret", "now", "kind"),
        [
            ("c2", "s" * 64, 1.0, "claim-unknown"),
            ("c1", "t" * 64, 1.0, "claim-unknown"),
            ("c1", "s" * 64, 100.0, "claim-expired"),
        ],
    )
    async def test_a_wrong_claim_costs_no_use(
        self, database: SqlDatabase, claim: str, secret: str, now: float, kind: str
    ) -> None:
        await database.write(lambda unit: unit.identities.add_claim(self.CLAIM))
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.identities.spend_claim(claim, secret, now))
        assert caught.value.kind == kind
        assert await database.read(lambda unit: unit.identities.claims()) == [self.CLAIM]

    async def test_an_agent_brings_its_target_and_is_found_by_its_key(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1", site="berlin"))
        assert await database.read(lambda unit: unit.identities.agent("t1")) == agent("t1")
        assert await database.read(lambda unit: unit.identities.agent_by_report_key("key-t1")) == agent("t1")
        target = await database.read(lambda unit: unit.fleet.target("t1"))
        assert target is not None
        assert (target.agent, target.hardware, target.labels) == ("t1", "hw-1", {"site": "berlin"})

    async def test_an_operators_word_on_the_time_zone_counts_before_the_devices_own(
        self, database: SqlDatabase
    ) -> None:
        def work(unit: Unit) -> list[str | None]:
            enrol(unit, "told", timezone="Asia/Tokyo")
            enrol(unit, "says", "silent")
            for name in ("told", "says"):
                unit.fleet.set_inventory(name, labels={"timezone": "Europe/Berlin"}, capabilities=[])
            targets = [unit.campaigns.load(Footprint(target=name)).target for name in ("told", "says", "silent")]
            return [target.zone for target in targets if target]

        assert await database.write(work) == ["Asia/Tokyo", "Europe/Berlin", None]

    @pytest.mark.parametrize("other", [agent("t1"), agent("t2", report_keyid="key-t1")])
    async def test_an_id_and_a_report_key_belong_to_one_agent(self, database: SqlDatabase, other: AgentRecord) -> None:
        await database.write(lambda unit: enrol(unit, "t1"))
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.identities.add_agent(other, hardware="hw-1", labels={}))
        assert caught.value.kind == "agent-exists"

    async def test_api_tokens_are_found_by_hash(self, database: SqlDatabase) -> None:
        token = ApiToken(secret_sha256="h" * 64, name="ci", role=Role.OPERATOR, expires_at=5.0)
        await database.write(lambda unit: unit.identities.add_api_token(token))
        assert await database.read(lambda unit: unit.identities.api_token("h" * 64)) == token
        assert await database.read(lambda unit: unit.identities.api_token("g" * 64)) is None

    async def test_a_known_device_is_found_by_key_and_serial_and_bound_once(self, database: SqlDatabase) -> None:
        by_key = KnownDevice(id="k-1", key_sha256="a" * 64, labels={"site": "x"}, created_at=5.0, created_by="anna")
        by_serial = KnownDevice(id="k-2", serial="SN-1", created_at=6.0)

        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            unit.identities.add_known_device(by_key)
            unit.identities.add_known_device(by_serial)
            unit.identities.bind_known_device("k-2", agent="t1", key_sha256="b" * 64)
            unit.identities.allow_known_device("k-2")

        await database.write(work)
        bound = dataclasses.replace(by_serial, agent="t1", key_sha256="b" * 64, again=True)
        find = lambda **words: database.read(lambda unit: unit.identities.known_device(**words))  # noqa: E731
        assert await find(key_sha256="a" * 64, serial="SN-1") == by_key
        assert await find(key_sha256="c" * 64, serial="SN-1") == bound
        assert await find(key_sha256="b" * 64) == bound
        assert await find() is None
        assert await database.read(lambda unit: unit.identities.known_devices(after="k-1", limit=5)) == [bound]
        with pytest.raises(Exception, match="known_device"):
            await database.write(lambda unit: unit.identities.add_known_device(dataclasses.replace(by_key, id="k-3")))
        await database.write(lambda unit: unit.identities.remove_known_device("k-1"))
        assert await database.read(lambda unit: unit.identities.known_device_by_id("k-1")) is None


class TestReleases:
    async def test_the_same_release_may_come_twice_and_another_may_not(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: unit.releases.add(RELEASE))
        await database.write(lambda unit: unit.releases.set_state("lamp", "2", ReleaseState.SUSPECT))
        await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, published_at=9.0)))
        stored = await database.read(lambda unit: unit.releases.get("lamp", "2"))
        assert stored == dataclasses.replace(RELEASE, state=ReleaseState.SUSPECT)
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, counter=3)))
        assert caught.value.kind == "release-exists"
        assert await database.read(lambda unit: unit.releases.list()) == [stored]

    async def test_what_a_release_requires_is_kept_and_learnt_later(self, database: SqlDatabase) -> None:
        asks = Requirements(min_counter=1, through=(1, 3))
        await database.write(lambda unit: unit.releases.add(RELEASE))
        await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, requires=asks)))
        assert await database.read(lambda unit: unit.releases.get("lamp", "2")) == dataclasses.replace(
            RELEASE, requires=asks
        )
        await database.write(lambda unit: unit.releases.add(RELEASE))
        with pytest.raises(RefusedError):
            await database.write(lambda unit: unit.releases.add(dataclasses.replace(RELEASE, requires=Requirements())))
        await database.write(lambda unit: unit.releases.set_requirements("lamp", "2", Requirements()))
        stored = await database.read(lambda unit: unit.releases.get("lamp", "2"))
        assert stored == dataclasses.replace(RELEASE, requires=Requirements())

    async def test_the_memory_of_a_delta_is_kept(self, database: SqlDatabase) -> None:
        file = StoredFile(path="deltas/a-b.otd", length=3, sha256="d" * 64)
        delta = DeltaRecord(
            file=file, source_sha256="a" * 64, source_length=7, target_sha256="b" * 64, memory_bytes=1 << 20
        )
        await database.write(lambda unit: unit.releases.add_delta(delta))
        assert await database.read(lambda unit: unit.releases.deltas()) == [delta]

    async def test_an_encrypted_release_keeps_its_key_apart(self, database: SqlDatabase) -> None:
        file = StoredFile(path="releases/lamp/2/image.enc", length=99, sha256="c" * 64)
        encrypted = EncryptedImage(file=file, salt="d" * 64, key_check="e" * 64)
        release = dataclasses.replace(RELEASE, images=(dataclasses.replace(RELEASE.images[0], encrypted=encrypted),))
        await database.write(lambda unit: unit.releases.add(release, content_key=b"\0wrapped"))
        assert await database.read(lambda unit: unit.releases.get("lamp", "2")) == release
        assert await database.read(lambda unit: unit.releases.content_key("lamp", "2")) == b"\0wrapped"
        assert await database.read(lambda unit: unit.releases.content_key("lamp", "3")) is None
        with pytest.raises(RefusedError) as caught:
            await database.write(lambda unit: unit.releases.add(RELEASE))
        assert caught.value.kind == "release-exists"

    async def test_a_delta_goes_one_way(self, database: SqlDatabase) -> None:
        file = StoredFile(path="deltas/a-b.otd", length=3, sha256="d" * 64)
        delta = DeltaRecord(file=file, source_sha256="a" * 64, source_length=7, target_sha256="b" * 64)
        await database.write(lambda unit: unit.releases.add_delta(delta))
        await database.write(lambda unit: unit.releases.add_delta(delta))
        assert await database.read(lambda unit: unit.releases.delta("a" * 64, "b" * 64)) == delta
        assert await database.read(lambda unit: unit.releases.delta("b" * 64, "a" * 64)) is None
        assert await database.read(lambda unit: unit.releases.deltas()) == [delta]
        await database.write(lambda unit: unit.releases.add_delta(dataclasses.replace(delta, salt="5" * 64)))
        assert await database.read(lambda unit: unit.releases.deltas()) == [dataclasses.replace(delta, salt="5" * 64)]


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


class TestCampaigns:
    @pytest.mark.parametrize("page", [1, 2, 5, 6])
    async def test_all_assignments_are_stored_whatever_the_page(self, database: SqlDatabase, page: int) -> None:
        step = ReleaseKey(product="lamp", version="1", counter=1, sha256="1" * 64)
        rows = [assignment(f"t{number}", number, gateways=("t9",), traits={"rack": "7"}) for number in range(1, 5)]
        rows.append(assignment("t5", 5, 0, via=step, state=AssignmentState.ORDERED, block_size=3, control="t1"))

        def work(unit: Unit) -> None:
            enrol(unit, *(row.target for row in rows))
            unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
            unit.campaigns.add_assignments((row for row in rows), page=page)

        await database.write(work)
        found = await database.read(lambda unit: unit.campaigns.assignments("spring").rows)
        assert sorted(found, key=lambda row: row.target) == [replace(row, version=1) for row in rows]

    async def test_a_campaign_comes_back_as_it_went_in(self, database: SqlDatabase) -> None:
        selection = Selection(labels={"site": "berlin"})
        await database.write(
            lambda unit: unit.campaigns.create(
                CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann", selection=selection
            )
        )
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.row == replace(CAMPAIGN, version=1)
        assert view.cohorts == tuple(replace(cohort, version=1) for cohort in COHORTS)
        assert (view.name, view.created_at, view.created_by, view.selection) == ("spring", 3.0, "ann", selection)
        assert await database.read(lambda unit: unit.campaigns.list()) == [view]

    async def test_every_revision_is_kept_and_the_proposed_one_comes_with_the_slice(
        self, database: SqlDatabase
    ) -> None:
        await database.write(plan)
        second = RevisionRow(
            campaign="spring",
            number=2,
            state=RevisionState.PROPOSED,
            strategy=dataclasses.replace(STRATEGY, patience_s=5.0),
            selection=Selection(labels={"site": "berlin"}),
            needed=2,
            agreed=("bob",),
            by="ann",
            at=7.5,
            changes=("patience: 13s → 5s",),
        )
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=second),))))
        stored = replace(second, version=1)
        first, *others = await database.read(lambda unit: unit.campaigns.revisions("spring"))
        assert (first.number, first.state, first.strategy, first.by) == (1, RevisionState.ACCEPTED, STRATEGY, "ann")
        assert others == [stored]
        assert (await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring")))).proposal == stored
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.proposal == stored
        accepted = replace(stored, state=RevisionState.ACCEPTED)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=accepted),))))
        assert (await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring")))).proposal is None

    async def test_a_draft_made_anew_keeps_its_revisions_and_nothing_else(self, database: SqlDatabase) -> None:
        await database.write(plan)
        anew = replace(CAMPAIGN, strategy=dataclasses.replace(STRATEGY, patience_s=5.0), revision=2, version=1)
        values = {"created_at": 9.0, "created_by": "bob", "selection": Selection(labels={"site": "berlin"})}
        await database.write(lambda unit: unit.campaigns.redraft(anew, "spring", COHORTS[:1], **values))
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert (view.row, view.selection) == (replace(anew, version=2), values["selection"])
        assert [cohort.name for cohort in view.cohorts] == ["canary"]
        assert (await database.read(lambda unit: unit.campaigns.assignments("spring"))).rows == []
        assert [row.number for row in await database.read(lambda unit: unit.campaigns.revisions("spring"))] == [1, 2]
        with pytest.raises(ConflictError):
            await database.write(lambda unit: unit.campaigns.redraft(anew, "spring", (), **values))

    async def test_a_planned_target_comes_with_the_other_campaigns_that_want_it(self, database: SqlDatabase) -> None:
        await database.write(plan)
        other = replace(
            CAMPAIGN,
            id="summer",
            state=CampaignState.PAUSED,
            strategy=dataclasses.replace(STRATEGY, priority=7),
            release=ReleaseKey(product="lamp", version="3", counter=3, sha256="b" * 64),
        )
        cohorts = tuple(replace(cohort, campaign="summer") for cohort in COHORTS)
        rows = [
            replace(assignment("t1", 0, 0), campaign="summer", state=AssignmentState.ORDERED),
            replace(assignment("t2", 1, 0), campaign="summer", state=AssignmentState.PLANNED, wake_at=9.0),
            replace(assignment("t3", 2, 0), campaign="summer", state=AssignmentState.ACTIVATING),
        ]

        def work(unit: Unit) -> None:
            unit.campaigns.create(other, "summer", cohorts, created_at=8.0, created_by="ann")
            unit.campaigns.add_assignments(rows)

        await database.write(work)

        def look(unit: Unit) -> list[Surroundings]:
            pairs = [("spring", "t1"), ("spring", "t2"), ("spring", "t3"), ("summer", "t1"), ("summer", "t2")]
            return [unit.campaigns.load(Footprint(campaign=name, target=target)).around for name, target in pairs]

        first, second, third, ordered, draft = await database.read(look)
        assert first.made_at == 3.0
        assert first.rivals == (
            Rival(
                campaign="summer",
                campaign_state="paused",
                priority=7,
                made_at=8.0,
                product="lamp",
                counter=3,
                state="ordered",
            ),
        )
        assert [(rival.state, rival.waits) for rival in second.rivals] == [("planned", True)]
        assert third.rivals == (), "who has a permit is left to end"
        assert ordered.rivals == (), "who was admitted looks at nobody"
        assert draft.rivals == (), "a draft wants nothing yet"

    async def test_words_that_a_strategy_waits_for_come_with_the_target(self, database: SqlDatabase) -> None:
        asks = replace(
            CAMPAIGN, strategy=dataclasses.replace(STRATEGY, preconditions=(PreconditionPolicy(name="backup"),))
        )
        word = Word(name="backup", key="site=berlin", good=False, by="bob", reason="", at=1.0, expires_at=9.0)

        def work(unit: Unit) -> None:
            enrol(unit, "t1", site="berlin")
            unit.campaigns.create(asks, "spring", COHORTS, created_at=3.0, created_by="ann")
            unit.campaigns.add_assignments([assignment("t1", 0, 0)])
            for one in (word, replace(word, key="site=rome"), replace(word, name="other"), replace(word, key="t1")):
                unit.fleet.put_word(one)
            unit.fleet.put_word(replace(word, key="t1", good=True))

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.around.words == (word, replace(word, key="t1", good=True))

    async def test_a_name_is_taken_once(self, database: SqlDatabase) -> None:
        await database.write(plan)
        other = replace(CAMPAIGN, id="summer")
        with pytest.raises(RefusedError) as caught:
            await database.write(
                lambda unit: unit.campaigns.create(other, "spring", (), created_at=1.0, created_by="ann")
            )
        assert caught.value.kind == "campaign-exists"

    async def test_eligible_are_the_active_that_fit(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t3", "t1", "gone", site="berlin", floor="2")
            enrol(unit, "t4", site="berlin")
            enrol(unit, "t5", hardware="hw-9", site="berlin", floor="2")
            unit.identities.set_agent_status("gone", AgentStatus.QUARANTINED)

        await database.write(work)

        async def eligible(**labels: str) -> list[str]:
            selection = Selection(labels=labels)
            return list(await database.read(lambda unit: unit.campaigns.eligible("lamp", ["hw-1"], selection)))

        assert await eligible(site="berlin", floor="2") == ["t1", "t3"]
        assert await eligible() == ["t1", "t3", "t4"]
        assert await eligible(site="berlin", floor="3") == []

    async def test_a_step_on_the_way_comes_back_as_it_went_in(self, database: SqlDatabase) -> None:
        via = ReleaseKey(product="lamp", version="1.5", counter=1, sha256="5" * 64)

        def work(unit: Unit) -> None:
            plan(unit)
            loaded = unit.campaigns.load(Footprint(campaign="spring", target="t1"))
            assert loaded.assignment is not None
            assert loaded.campaign is not None
            put = (Put(row=replace(loaded.assignment, via=via)), Put(row=replace(loaded.campaign, deltas_until=4.5)))
            unit.campaigns.commit(Decision(changes=put))

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment is not None
        assert loaded.campaign is not None
        assert (loaded.assignment.via, loaded.campaign.deltas_until) == (via, 4.5)

        def over(unit: Unit) -> None:
            row = unit.campaigns.load(Footprint(campaign="spring", target="t1")).assignment
            assert row is not None
            unit.campaigns.commit(Decision(changes=(Put(row=replace(row, via=None)),)))

        await database.write(over)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment is not None
        assert loaded.assignment.via is None

    async def test_assignments_page_by_cohort_and_rank(self, database: SqlDatabase) -> None:
        await database.write(plan)
        first = await database.read(lambda unit: unit.campaigns.assignments("spring", limit=2))
        rest = await database.read(lambda unit: unit.campaigns.assignments("spring", limit=2, cursor=first.next))
        assert [row.target for row in (*first.rows, *rest.rows)] == ["t1", "t3", "t2"]
        assert rest.next is None
        assert first.rows[0] == assignment("t1", 0, 0, version=1)
        only = await database.read(
            lambda unit: unit.campaigns.assignments("spring", cohort=1, states=[AssignmentState.PLANNED])
        )
        assert [row.target for row in only.rows] == ["t3", "t2"]
        for cursor in ("x", "1.2", "1.-2.t1", "9" * 200, "１.1.t1"):
            with pytest.raises(RefusedError):
                await database.read(lambda unit, at=cursor: unit.campaigns.assignments("spring", cursor=at))  # type: ignore[misc]

    async def test_candidates_are_planned_wait_for_nothing_and_come_by_rank(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            enrol(unit, "t4", "t5")
            unit.campaigns.add_assignments(
                [assignment("t4", 2, wake_at=9.0), assignment("t5", 3, state=AssignmentState.ORDERED)]
            )

        await database.write(work)
        rows = await database.read(lambda unit: unit.campaigns.candidates("spring", 1, 10))
        assert [row.target for row in rows] == ["t3", "t2"]
        assert len(await database.read(lambda unit: unit.campaigns.candidates("spring", 1, 1))) == 1
        ordered = await database.read(lambda unit: unit.campaigns.in_states("spring", [AssignmentState.ORDERED], 10))
        assert [row.target for row in ordered] == ["t5"]

    async def test_assignments_in_some_states_are_found_by_cohort_and_action(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            enrol(unit, "t4", "t5")
            back = {"state": AssignmentState.ORDERED, "action": Action.ROLLBACK, "back_reason": "it hums"}
            unit.campaigns.add_assignments([assignment("t4", 2, **back), assignment("t5", 3, 0, **back)])

        await database.write(work)

        def found(unit: Unit, **which: object) -> list[str]:
            states = [AssignmentState.PLANNED, AssignmentState.ORDERED]
            return sorted(row.target for row in unit.campaigns.in_states("spring", states, 10, **which))  # type: ignore[arg-type]

        assert await database.read(lambda unit: found(unit, cohort=1)) == ["t2", "t3", "t4"]
        assert await database.read(lambda unit: found(unit, action=Action.ROLLBACK)) == ["t4", "t5"]
        assert await database.read(lambda unit: found(unit, cohort=0, action=Action.INSTALL)) == ["t1"]
        row = await database.read(
            lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t4")).assignment
        )
        assert row is not None
        assert row.back_reason == "it hums"

    async def test_campaigns_of_a_release_and_those_to_undo_are_found(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            done = replace(CAMPAIGN, id="done", state=CampaignState.COMPLETED, suspect="t1 hangs", undoes="spring")
            other = ReleaseKey(product="lamp", version="3", counter=3, sha256="f" * 64)
            for row in (done, replace(done, id="told", proposed=""), replace(CAMPAIGN, id="third", release=other)):
                unit.campaigns.create(row, row.id, (), created_at=4.0, created_by="ann")

        await database.write(work)
        rows = await database.read(lambda unit: unit.campaigns.with_release("lamp", "2"))
        assert [row.id for row in rows] == ["done", "spring", "told"]
        assert (rows[0].suspect, rows[0].undoes, rows[0].proposed) == ("t1 hangs", "spring", None)
        assert [row.id for row in await database.read(lambda unit: unit.campaigns.to_undo(9))] == ["done"]
        assert len(await database.read(lambda unit: unit.campaigns.to_undo(0))) == 0

    @pytest.mark.parametrize(("why", "found"), [("no-previous", ["spring"]), ("health-failed", [])])
    async def test_a_campaign_that_was_rolled_back_is_to_be_undone_where_somebody_could_not_go_back(
        self, database: SqlDatabase, why: str, found: list[str]
    ) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1", "t2")
            back = replace(CAMPAIGN, state=CampaignState.ROLLED_BACK)
            unit.campaigns.create(back, "spring", COHORTS, created_at=3.0, created_by="ann")
            failed = assignment("t1", 0, 0, state=AssignmentState.FAILED, reason_kind=why, came_from="b" * 64)
            unit.campaigns.add_assignments([failed, assignment("t2", 1, state=AssignmentState.ROLLED_BACK)])

        await database.write(work)
        assert [row.id for row in await database.read(lambda unit: unit.campaigns.to_undo(9))] == found

    async def test_who_runs_the_campaigns_release_is_found_with_what_its_other_slot_has(
        self, database: SqlDatabase
    ) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            for name, sha256 in (("t1", "a" * 64), ("t2", "b" * 64), ("t3", "a" * 64)):
                target = unit.campaigns.load(Footprint(target=name)).target
                assert target is not None
                unit.campaigns.commit(Decision(changes=(Put(row=replace(target, running_sha256=sha256)),)))
            unit.fleet.note_report("t1", at=1.0, slot="A", previous_version="1")
            unit.identities.set_agent_status("t3", AgentStatus.REVOKED)

        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.running_release("spring")) == {"t1": Before(version="1")}

    async def test_a_step_on_the_way_is_told_when_it_is_suspect(self, database: SqlDatabase) -> None:
        step = ReleaseKey(product="lamp", version="2", counter=2, sha256="a" * 64)

        def work(unit: Unit) -> None:
            enrol(unit, "t1", "t2")
            unit.releases.add(RELEASE)
            unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
            unit.campaigns.add_assignments([assignment("t1", 0, 0, via=step), assignment("t2", 1)])

        await database.write(work)

        def told(unit: Unit, target: str) -> bool:
            return unit.campaigns.load(Footprint(campaign="spring", target=target)).around.step_is_suspect

        assert not await database.read(lambda unit: told(unit, "t1"))
        await database.write(lambda unit: unit.releases.set_state("lamp", "2", ReleaseState.SUSPECT))
        assert await database.read(lambda unit: told(unit, "t1"))
        assert not await database.read(lambda unit: told(unit, "t2"))

    async def test_a_younger_campaign_is_told_where_drift_is_corrected(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1")
            correcting = dataclasses.replace(STRATEGY, on_drift="correct")
            rows = (
                replace(CAMPAIGN, strategy=correcting),
                replace(CAMPAIGN, id="autumn", state=CampaignState.RUNNING),
                replace(CAMPAIGN, id="winter"),
            )
            for at, row in enumerate(rows):
                unit.campaigns.create(row, row.id, COHORTS[:0], created_at=float(at), created_by="ann")
                unit.campaigns.add_assignments([assignment("t1", 0, 0, campaign=row.id, came_from="c" * 64)])

        await database.write(work)

        def younger(unit: Unit, campaign: str) -> str | None:
            return unit.campaigns.load(Footprint(campaign=campaign, target="t1")).around.younger

        assert await database.read(lambda unit: younger(unit, "spring")) == "autumn", "a draft has no say"
        assert await database.read(lambda unit: younger(unit, "autumn")) is None, "it corrects nothing"

    async def test_targets_that_drifted_are_counted_by_their_last_campaign(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            plan(unit)
            for name in ("t1", "t2"):
                loaded = unit.campaigns.load(Footprint(campaign="spring", target=name))
                assert loaded.target is not None
                assert loaded.assignment is not None
                held = replace(loaded.target, holder="spring")
                drifted = replace(loaded.assignment, state=AssignmentState.DRIFTED)
                changes = (Put(row=drifted), *((Put(row=held),) if name == "t1" else ()))
                unit.campaigns.commit(Decision(changes=changes))

        await database.write(work)
        assert await database.read(lambda unit: unit.fleet.drifted()) == 1

    async def test_what_was_said_of_a_cohort_is_kept(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: plan(unit))
        told = replace(COHORTS[1], state=CohortState.ROLLED_BACK, back_reason="it hums", going_back=2, version=1)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=told),))))
        view = await database.read(lambda unit: unit.campaigns.view("spring"))
        assert view is not None
        assert view.cohorts[1] == replace(told, version=2)

    async def test_due_are_those_whose_time_has_come_oldest_first(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            enrol(unit, "t1", "t2", "t3")
            unit.campaigns.create(replace(CAMPAIGN, wake_at=30.0), "spring", (), created_at=1.0, created_by="ann")
            unit.campaigns.add_assignments(
                [assignment("t1", 0, wake_at=20.0), assignment("t2", 1, wake_at=10.0), assignment("t3", 2)]
            )

        assert await database.read(lambda unit: unit.campaigns.next_wake()) is None
        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.next_wake()) == 10.0
        campaigns, assignments = await database.read(lambda unit: unit.campaigns.due(20.0, 10))
        assert (list(campaigns), [row.target for row in assignments]) == ([], ["t2", "t1"])
        campaigns, assignments = await database.read(lambda unit: unit.campaigns.due(30.0, 1))
        assert ([row.id for row in campaigns], [row.target for row in assignments]) == (["spring"], ["t2"])


class TestSlices:
    async def test_a_slice_holds_the_rows_of_its_event_and_no_others(self, database: SqlDatabase) -> None:
        token = TokenRow(group="site=rome", target="t1", campaign="old", kind=TokenKind.FAILED, since=2.0)
        groups = [
            GroupRow(key=key, limit=2, used=1)
            for key in ("site=berlin", "site=rome", "site=oslo", campaign_group("spring"))
        ]

        def work(unit: Unit) -> None:
            plan(unit)
            rows = (token, replace(token, target="t2"), *groups)
            unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in rows)))

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.campaign == replace(CAMPAIGN, version=1)
        assert [cohort.name for cohort in loaded.cohorts] == ["canary", "rest"]
        assert loaded.assignment == assignment("t1", 0, 0, version=1)
        assert loaded.tokens == (replace(token, version=1),)
        assert {group.key for group in loaded.groups} == {"campaign:spring", "site=berlin", "site=rome"}
        assert [row.target for row in await database.read(lambda unit: unit.campaigns.holders(["site=rome"], 9))] == [
            "t1",
            "t2",
        ]

    async def test_first_in_a_line_is_the_lowest_rank_of_a_campaign_that_admits(self, database: SqlDatabase) -> None:
        group = place_group("site=berlin")
        stands = TokenRow(group=line_of(group), target="t1", campaign="spring", kind=TokenKind.IN_LINE, since=2.0)
        waiting = (stands, replace(stands, target="t2", since=1.0), replace(stands, group=line_of("x"), since=0.0))

        def work(unit: Unit) -> None:
            plan(unit)
            rows = (*waiting, GroupRow(key=group, limit=2, used=0))
            unit.campaigns.commit(Decision(changes=tuple(Put(row=row) for row in rows)))

        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.first_in_line(group)) is None, "it is a draft"
        running = replace(CAMPAIGN, state=CampaignState.RUNNING, version=1)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=running),))))
        first = await database.read(lambda unit: unit.campaigns.first_in_line(group))
        assert first is not None
        assert (first.target, first.since) == ("t2", 1.0)
        assert await database.read(lambda unit: unit.campaigns.first_in_line("y")) is None
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert group in {row.key for row in loaded.groups}

    async def test_without_a_campaign_the_holder_s_is_loaded(self, database: SqlDatabase) -> None:
        await database.write(plan)
        free = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert (free.campaign, free.assignment) == (None, None)
        assert free.target is not None
        held = replace(free.target, holder="spring", settled=False)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=held),))))
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target == replace(held, version=2)
        assert loaded.campaign is not None
        assert loaded.assignment is not None
        unknown = await database.read(lambda unit: unit.campaigns.load(Footprint(target="nobody")))
        assert (unknown.target, unknown.campaign, unknown.groups) == (None, None, ())

    async def test_quarantine_shows_in_the_slice(self, database: SqlDatabase) -> None:
        await database.write(plan)
        await database.write(lambda unit: unit.identities.set_agent_status("t1", AgentStatus.QUARANTINED))
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target is not None
        assert loaded.target.quarantined


class TestCompareAndSet:
    async def test_a_stale_row_is_a_conflict_and_nothing_of_the_decision_is_kept(self, database: SqlDatabase) -> None:
        await database.write(plan)
        group = GroupRow(key="site=berlin", limit=1)
        stale = assignment("t1", 0, 0, state=AssignmentState.ORDERED, version=7)

        def work(unit: Unit) -> None:
            with pytest.raises(ConflictError):
                unit.campaigns.commit(Decision(changes=(Put(row=group), Put(row=stale))))

        await database.write(work)  # even when the transaction goes on
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.groups == ()
        assert loaded.assignment == assignment("t1", 0, 0, version=1)

    async def test_a_row_is_inserted_changed_and_deleted_once_each(self, database: SqlDatabase) -> None:
        await database.write(plan)
        token = TokenRow(group="g", target="t1", campaign="spring", kind=TokenKind.IN_FLIGHT, since=2.0)
        stored = replace(token, version=1)

        async def commit(*changes: Put | Delete) -> None:
            await database.write(lambda unit: unit.campaigns.commit(Decision(changes=changes)))

        await commit(Put(row=token))
        for bad in (Put(row=token), Put(row=replace(token, version=2)), Delete(row=replace(token, version=2))):
            with pytest.raises(ConflictError):
                await commit(bad)
        await commit(Put(row=replace(stored, kind=TokenKind.MISSING)))
        with pytest.raises(ConflictError):
            await commit(Put(row=stored))
        await commit(Delete(row=replace(stored, version=2)))
        with pytest.raises(ConflictError):
            await commit(Delete(row=replace(stored, version=2)))
        await commit(Put(row=token))

    async def test_every_column_of_an_assignment_and_a_cohort_is_kept(self, database: SqlDatabase) -> None:
        await database.write(plan)
        changed = AssignmentRow(
            campaign="spring",
            target="t1",
            cohort=1,
            rank=9,
            state=AssignmentState.TRIAL,
            action=Action.ROLLBACK,
            attempt=2,
            order_hash="o" * 64,
            heard=True,
            permit_nonce="n",
            permitted_at=1.25,
            committed_at=2.5,
            state_since=3.5,
            reason_kind="boot-failed",
            reason="Because.",
            wake_at=4.5,
            version=1,
        )
        cohort = CohortRow(
            campaign="spring",
            index=1,
            name="rest",
            state=CohortState.OPEN,
            size=5,
            counts={AssignmentState.TRIAL: 2, AssignmentState.VERIFIED: 3},
            attempted=4,
            moved_to_late=1,
            opened_at=8.5,
            verdict_text="Four more.",
            version=1,
        )
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=changed), Put(row=cohort)))))
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment == replace(changed, version=2)
        assert loaded.cohorts[1] == replace(cohort, version=2)

    async def test_the_planner_cannot_make_targets(self, database: SqlDatabase) -> None:
        await database.write(plan)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(target="t1")))
        assert loaded.target is not None
        made = Put(row=replace(loaded.target, id="t9", version=0))
        with pytest.raises(ConflictError):
            await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(made,))))


class TestWhatIsPutOff:
    """Within a transaction rows are fetched ahead and written together; nobody may see the difference."""

    async def test_a_query_sees_what_the_same_transaction_decided_before(self, database: SqlDatabase) -> None:
        await database.write(plan)

        def work(unit: Unit) -> None:
            unit.campaigns.expect(["t1", "nobody"])
            for state in (AssignmentState.ORDERED, AssignmentState.STAGED):
                row = unit.campaigns.load(Footprint(campaign="spring", target="t1")).assignment
                assert row is not None
                unit.campaigns.commit(Decision(changes=(Put(row=replace(row, state=state)),)))
            (staged,) = unit.campaigns.in_states("spring", [AssignmentState.STAGED], 9)
            assert (staged.target, staged.version) == ("t1", 3)
            assert unit.campaigns.load(Footprint(campaign="spring", target="t1")).assignment == staged

        await database.write(work)
        loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
        assert loaded.assignment is not None
        assert (loaded.assignment.state, loaded.assignment.version) == (AssignmentState.STAGED, 3)

    async def test_a_token_taken_and_given_back_in_one_transaction_leaves_nothing(self, database: SqlDatabase) -> None:
        await database.write(plan)
        token = TokenRow(group="g", target="t1", campaign="spring", kind=TokenKind.IN_FLIGHT, since=2.0)

        def work(unit: Unit) -> None:
            for _ in range(2):
                unit.campaigns.commit(Decision(changes=(Put(row=token),)))
                (held,) = unit.campaigns.load(Footprint(campaign="spring", target="t1")).tokens
                assert held == replace(token, version=1)
                unit.campaigns.commit(Decision(changes=(Delete(row=held),)))
            assert unit.campaigns.load(Footprint(campaign="spring", target="t1")).tokens == ()

        await database.write(work)
        assert await database.read(lambda unit: unit.campaigns.holders(["g"], 9)) == []

    async def test_a_stored_token_given_back_and_taken_anew_is_one_row(self, database: SqlDatabase) -> None:
        await database.write(plan)
        token = TokenRow(group="g", target="t1", campaign="spring", kind=TokenKind.IN_FLIGHT, since=2.0)
        await database.write(lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=token),))))

        def work(unit: Unit) -> None:
            unit.campaigns.commit(Decision(changes=(Delete(row=replace(token, version=1)),)))
            unit.campaigns.commit(Decision(changes=(Put(row=replace(token, since=3.0)),)))

        await database.write(work)
        held = await database.read(lambda unit: unit.campaigns.holders(["g"], 9))
        assert held == [replace(token, since=3.0, version=1)]

    async def test_what_identity_and_presence_change_is_seen_after_it_was_fetched(self, database: SqlDatabase) -> None:
        await database.write(plan)

        def work(unit: Unit) -> None:
            unit.campaigns.expect(["t1"])
            before = unit.campaigns.load(Footprint(target="t1")).target
            assert before is not None
            assert (before.offline, before.quarantined) == (True, False)
            unit.campaigns.commit(Decision(changes=(Put(row=replace(before, running_version="9")),)))
            unit.fleet.set_presence(before.agent, online=True, at=1.0)
            unit.identities.set_agent_status(before.agent, AgentStatus.QUARANTINED)
            after = unit.campaigns.load(Footprint(target="t1")).target
            assert after is not None
            assert (after.offline, after.quarantined, after.running_version) == (False, True, "9")
            agent = unit.identities.agent(before.agent)
            assert agent is not None
            assert agent.status is AgentStatus.QUARANTINED

        await database.write(work)

    async def test_a_failed_transaction_keeps_nothing_of_what_was_put_off(self, database: SqlDatabase) -> None:
        await database.write(plan)

        def work(unit: Unit) -> None:
            unit.inbox.add_report("t1", "t1", "j", 1, "h1", {}, 1.0)
            unit.outbox.add("topic", b"words")
            raise ValueError("it breaks at its end")

        with pytest.raises(ValueError, match="its end"):
            await database.write(work)
        assert await database.read(lambda unit: (unit.inbox.unprocessed(9), unit.outbox.pending(9))) == ([], [])

    async def test_many_reports_keep_their_order_and_their_places(self, database: SqlDatabase) -> None:
        await database.write(plan)
        places = [("t1", "j", seq) for seq in range(1, 8)] + [("t2", "k", seq) for seq in range(1, 4)]
        mixed = sorted(places, key=lambda place: (place[2], place[0]))

        def work(unit: Unit) -> None:
            unit.inbox.expect(mixed)
            for agent, journal, seq in mixed:
                assert unit.inbox.sequence(agent, journal, seq, 1, f"h{seq}") == SeqVerdict.NEW
                unit.inbox.add_report(agent, agent, journal, seq, f"h{seq}", {"seq": seq}, 1.0)
                assert unit.inbox.sequence(agent, journal, seq, 1, f"h{seq}") == SeqVerdict.REPEAT
                assert unit.inbox.sequence(agent, journal, seq, 1, "other") == SeqVerdict.CLONE

        await database.write(work)

        def check(unit: Unit) -> None:
            unit.inbox.expect([*mixed, ("t1", "j", 8), ("t3", "new", 1)])
            assert [(item.target, item.body["seq"]) for item in unit.inbox.unprocessed(99)] == [
                (agent, seq) for agent, _, seq in mixed
            ]
            for agent, journal, seq in mixed:
                assert unit.inbox.sequence(agent, journal, seq, 1, f"h{seq}") == SeqVerdict.REPEAT
                assert unit.inbox.sequence(agent, journal, seq, 1, "other") == SeqVerdict.CLONE
            assert unit.inbox.sequence("t1", "j", 8, 8, "h8") == SeqVerdict.NEW
            assert unit.inbox.sequence("t1", "j", 9, 8, "h9") == SeqVerdict.EARLY
            assert unit.inbox.sequence("t3", "new", 1, 1, "h1") == SeqVerdict.NEW

        await database.read(check)


class TestSequences:
    async def judge(self, database: SqlDatabase, seq: int, *, oldest: int = 1, digest: str | None = None) -> SeqVerdict:
        """Judge a report and, as ingest does, store it when it is new."""
        name = digest or f"h{seq}"

        def work(unit: Unit) -> SeqVerdict:
            verdict = unit.inbox.sequence("t1", "j", seq, oldest, name)
            if verdict in (SeqVerdict.NEW, SeqVerdict.NEW_AFTER_GAP):
                unit.inbox.add_report("t1", "t1", "j", seq, name, {"seq": seq}, 1.0)
            return verdict

        return await database.write(work)

    async def test_in_turn_repeated_early_and_cloned(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 2) is SeqVerdict.EARLY
        assert await self.judge(database, 1) is SeqVerdict.NEW
        assert await self.judge(database, 1) is SeqVerdict.REPEAT
        assert await self.judge(database, 2) is SeqVerdict.NEW
        assert await self.judge(database, 1, digest="other") is SeqVerdict.CLONE
        assert await self.judge(database, 2, digest="other") is SeqVerdict.CLONE
        assert await self.judge(database, 4) is SeqVerdict.EARLY
        items = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert [item.body["seq"] for item in items] == [1, 2]

    async def test_what_the_agent_says_is_gone_is_not_waited_for(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 1) is SeqVerdict.NEW
        assert await self.judge(database, 5, oldest=5) is SeqVerdict.NEW_AFTER_GAP
        assert await self.judge(database, 6, oldest=5) is SeqVerdict.NEW

    async def test_a_later_report_tells_that_the_gap_before_an_older_one_is_final(self, database: SqlDatabase) -> None:
        """5 was made while 3 was unacked, then 3 and 4 were acked, then this server's backup was restored."""
        assert await self.judge(database, 1) is SeqVerdict.NEW
        assert await self.judge(database, 5, oldest=3) is SeqVerdict.EARLY
        assert await self.judge(database, 6, oldest=5) is SeqVerdict.EARLY
        assert await self.judge(database, 5, oldest=3) is SeqVerdict.NEW_AFTER_GAP
        assert await self.judge(database, 6, oldest=5) is SeqVerdict.NEW

    async def test_journals_are_apart(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 1) is SeqVerdict.NEW
        other = await database.write(lambda unit: unit.inbox.sequence("t1", "k", 1, 1, "x"))
        assert other is SeqVerdict.NEW

    async def test_a_report_is_never_stored_twice(self, database: SqlDatabase) -> None:
        assert await self.judge(database, 1) is SeqVerdict.NEW
        with pytest.raises(ConflictError):
            await database.write(lambda unit: unit.inbox.add_report("t1", "t1", "j", 1, "h1", {}, 1.0))

    async def test_an_ask_is_stored_once_and_processed_once(self, database: SqlDatabase) -> None:
        for _ in range(2):
            await database.write(lambda unit: unit.inbox.add_ask("t1", "h", {"nonce": "n"}, 3.0))
        (item,) = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert (item.kind, item.target, item.hash, item.received_at, item.body) == (
            "ask",
            "t1",
            "h",
            3.0,
            {"nonce": "n"},
        )
        await database.write(lambda unit: unit.inbox.mark_processed(item.id))
        await database.write(lambda unit: unit.inbox.add_ask("t1", "h", {"nonce": "n"}, 4.0))
        assert await database.read(lambda unit: unit.inbox.unprocessed(10)) == []

    async def test_who_asks_again_keeps_its_place_and_is_answered_once(self, database: SqlDatabase) -> None:
        said = [("t1", "a"), ("t2", "b"), ("t1", "c"), ("t1", "a")]
        for at, (target, nonce) in enumerate(said):
            await database.write(
                lambda unit, at=at, target=target, nonce=nonce: unit.inbox.add_ask(
                    target, f"h{at}", {"nonce": nonce}, at
                )
            )
        items = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert [(item.target, item.body["nonce"], item.hash, item.received_at) for item in items] == [
            ("t1", "a", "h3", 3.0),
            ("t2", "b", "h1", 1.0),
        ]
        await database.write(lambda unit: unit.inbox.mark_processed(items[0].id))
        await database.write(lambda unit: unit.inbox.add_ask("t1", "h9", {"nonce": "d"}, 9.0))
        after = await database.read(lambda unit: unit.inbox.unprocessed(10))
        assert [item.target for item in after] == ["t2", "t1"], "an answered ask is evidence, and stays as it is"


class TestOutboxAndOrders:
    async def test_messages_stay_in_order_until_done(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: [unit.outbox.add(f"t/{n}", bytes([n])) for n in range(3)])
        await database.write(lambda unit: unit.outbox.add("r", b"\x00\xff", retain=True, expires_at=5.0))
        first, *_, last = await database.read(lambda unit: unit.outbox.pending(10))
        assert (last.topic, last.payload, last.retain, last.expires_at) == ("r", b"\x00\xff", True, 5.0)
        await database.write(lambda unit: unit.outbox.done([first.id, last.id]))
        left = await database.read(lambda unit: unit.outbox.pending(10))
        assert [item.topic for item in left] == ["t/1", "t/2"]

    async def test_the_id_of_a_finished_message_is_not_given_again(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: unit.outbox.add("a", b""))
        (item,) = await database.read(lambda unit: unit.outbox.pending(1))
        await database.write(lambda unit: unit.outbox.done([item.id]))
        await database.write(lambda unit: unit.outbox.add("b", b""))
        await database.write(lambda unit: unit.outbox.done([item.id]))
        assert len(await database.read(lambda unit: unit.outbox.pending(1))) == 1

    async def test_the_current_order_only_ever_rises(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1", "t2"))
        first = StoredOrder(
            target="t1", agent="t1", counter=Counter(epoch=1, n=9), hash="h", envelope=b"e", campaign=None
        )
        await database.write(lambda unit: unit.orders.put(first))
        for counter in (Counter(epoch=1, n=9), Counter(epoch=1, n=8), Counter(epoch=0, n=10)):
            lower = dataclasses.replace(first, counter=counter, envelope=b"x")
            with pytest.raises(ConflictError):
                await database.write(lambda unit, order=lower: unit.orders.put(order))  # type: ignore[misc]
        higher = dataclasses.replace(first, counter=Counter(epoch=2, n=1))
        await database.write(lambda unit: unit.orders.put(higher))
        await database.write(lambda unit: unit.orders.put(dataclasses.replace(first, target="t2")))
        page = await database.read(lambda unit: unit.orders.page(limit=1))
        assert (page.rows, page.next) == ([higher], "t1")
        rest = await database.read(lambda unit: unit.orders.page(cursor="t1", limit=2))
        assert ([order.target for order in rest.rows], rest.next) == (["t2"], None)

    async def test_the_highest_echo_stays(self, database: SqlDatabase) -> None:
        await database.write(lambda unit: enrol(unit, "t1"))
        assert await database.read(lambda unit: unit.orders.echoed("t1")) is None
        for epoch, n, highest in [(1, 5, (1, 5)), (1, 4, (1, 5)), (0, 9, (1, 5)), (1, 6, (1, 6)), (2, 0, (2, 0))]:
            given = Counter(epoch=epoch, n=n)
            await database.write(lambda unit, counter=given: unit.orders.set_echoed("t1", counter))  # type: ignore[misc]
            assert await database.read(lambda unit: unit.orders.echoed("t1")) == Counter(epoch=highest[0], n=highest[1])


class TestAudit:
    async def test_lines_by_campaign_and_target_both_ways(self, database: SqlDatabase) -> None:
        def work(unit: Unit) -> None:
            for number in range(4):
                unit.audit.add(
                    at=float(number),
                    kind="k",
                    text=f"{number}",
                    campaign="spring" if number % 2 else None,
                    target="t1" if number > 1 else None,
                    change_id="chg-1",
                    data={"n": number},
                )

        await database.write(work)
        oldest = await database.read(lambda unit: unit.audit.page(limit=3))
        assert [line.text for line in oldest] == ["0", "1", "2"]
        after = await database.read(lambda unit: unit.audit.page(after=oldest[-1].id))
        assert [(line.text, line.data, line.change_id) for line in after] == [("3", {"n": 3}, "chg-1")]
        newest = await database.read(lambda unit: unit.audit.latest(limit=2))
        assert [line.text for line in newest] == ["3", "2"]
        both = await database.read(lambda unit: unit.audit.latest(campaign="spring", target="t1"))
        assert [line.text for line in both] == ["3"]
