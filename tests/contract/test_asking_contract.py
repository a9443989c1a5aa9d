"""What the server asks and tells by itself: checks elsewhere, evidence, reminders, and those that a new calendar rouses."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from firmware.protocol.order import Counter
from server.planner.decision import Decision, Put
from server.planner.rows import Approval, CampaignRow, GroupRow
from server.planner.slices import Footprint
from server.planner.strategy import BandwidthPolicy, EmergencyPolicy, PreconditionPolicy
from server.planner.surroundings import Evidence, Inquiry, Word, cohort_key
from server.planner.words import AssignmentState, CampaignState
from server.ports import LogAsk, LogState, OpenInquiry, Unit
from server.storage import SqlDatabase
from tests.contract.storage.rows import CAMPAIGN, COHORTS, assignment, enrol

T = TypeVar("T")
HASH = "a" * 64


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[SqlDatabase]:
    made = SqlDatabase.open(database_url)
    yield made
    await made.close()


def campaign(unit: Unit) -> CampaignRow:
    row = unit.campaigns.load(Footprint(campaign="spring")).campaign
    assert row is not None
    return row


def put(row: Any) -> Callable[[Unit], None]:
    return lambda unit: unit.campaigns.commit(Decision(changes=(Put(row=row),)))


async def made(database: SqlDatabase, *names: str, **values: Any) -> CampaignRow:
    """The campaign over these targets, with these values."""

    def work(unit: Unit) -> CampaignRow:
        enrol(unit, *names, site="berlin")
        unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
        unit.campaigns.add_assignments([assignment(name, 0, rank) for rank, name in enumerate(names)])
        put(replace(campaign(unit), **values))(unit)
        return campaign(unit)

    return await database.write(work)


def inquiry(key: str = "t1", **values: Any) -> OpenInquiry:
    given = {"name": "backup", "campaign": "spring", "target": "t1", "asked_at": 10.0, "next_at": 10.0}
    return OpenInquiry(key=key, **{**given, **values})


async def test_a_check_is_open_once_put_off_and_answered(database: SqlDatabase) -> None:
    assert await database.write(lambda unit: unit.inquiries.open(inquiry()))
    assert not await database.write(lambda unit: unit.inquiries.open(inquiry(asked_at=11.0)))
    assert await database.write(lambda unit: unit.inquiries.open(inquiry("t2", next_at=9.0)))
    assert await database.read(lambda unit: unit.inquiries.due(8.0, 9)) == []
    due = await database.read(lambda unit: unit.inquiries.due(10.0, 9))
    assert due == [inquiry("t2", next_at=9.0), inquiry()]
    assert await database.read(lambda unit: unit.inquiries.due(10.0, 1)) == due[:1]
    assert await database.write(lambda unit: unit.inquiries.put_off(due[1], 20.0, "Nobody answers."))
    assert not await database.write(lambda unit: unit.inquiries.put_off(due[1], 30.0, "")), "it is another by now"
    assert await database.read(lambda unit: unit.inquiries.due(20.0, 9)) == [
        due[0],
        inquiry(attempts=1, next_at=20.0, reason="Nobody answers."),
    ]
    assert await database.write(lambda unit: unit.inquiries.answered(due[0]))
    assert await database.write(lambda unit: unit.inquiries.open(inquiry("t2", asked_at=40.0, next_at=40.0)))
    await database.write(lambda unit: unit.inquiries.drop(inquiry()))
    assert await database.read(lambda unit: unit.inquiries.due(99.0, 9)) == [inquiry("t2", asked_at=40.0, next_at=40.0)]


async def test_only_answered_ones_are_forgotten(database: SqlDatabase) -> None:
    def work(unit: Unit) -> int:
        unit.inquiries.open(inquiry())
        unit.inquiries.open(inquiry("t2"))
        unit.inquiries.answered(inquiry())
        assert unit.inquiries.forget(10.0, 9) == 0
        return unit.inquiries.forget(11.0, 9)

    assert await database.write(work) == 1
    assert await database.read(lambda unit: unit.inquiries.due(99.0, 9)) == [inquiry("t2")]


async def test_a_slice_shows_what_checks_and_logs_of_its_target_came_to(database: SqlDatabase) -> None:
    row = await made(database, "t1", "t2")
    conditions = (
        PreconditionPolicy(name="backup", per="cohort"),
        PreconditionPolicy(evidence=("agent",), within_s=60.0),
    )
    strategy = type(row.strategy)(name="s", cohorts=row.strategy.cohorts, preconditions=conditions)
    await database.write(put(replace(row, strategy=strategy)))
    key = cohort_key("spring", row.strategy.cohorts[0].name)
    word = Word(name="backup", key=key, good=True, by="bob", reason="", at=1.0, expires_at=9.0)

    def work(unit: Unit) -> None:
        unit.inquiries.open(inquiry(key))
        unit.fleet.put_word(word)
        for number, (target, name) in enumerate((("t1", "spring"), ("t1", None), ("t2", "spring"), ("t1", "spring"))):
            given = {"what": ["agent"], "max_bytes": 1024, "asked_by": "x", "expires_at": 99.0, "sent_at": 1.0}
            counter = Counter(epoch=1, n=number)
            ask = LogAsk(
                id=f"l{number}", target=target, agent=target, campaign=name, counter=counter, asked_at=number, **given
            )
            unit.logs.add(ask)
        for name in ("l1", "l3"):
            unit.logs.close(name, LogState.REFUSED, 5.0, text="", reason_kind="logs-not-allowed", reason="No.")

    await database.write(work)
    around = (await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))).around
    assert around.evidence == Evidence(state="refused", asked_at=3.0, reason="No.")
    assert around.inquiries == (Inquiry(name="backup", key=key, state="waiting", next_at=10.0),)
    assert around.words == (word,)
    listed = await database.read(lambda unit: unit.logs.of_campaign("spring", "l0", 9))
    assert [ask.id for ask in listed] == ["l2", "l3"]
    assert await database.write(lambda unit: unit.logs.forget(1e9, 0, 9)) == 1, "what a person asked for"


async def test_what_is_reserved_limited_and_declined_comes_back_as_it_was_put(database: SqlDatabase) -> None:
    row = await made(database, "t1", declined=(Approval(by="bob", at=2.0, reason="why?"),), reminders=2, remind_at=7.0)
    assert (row.declined[0].by, row.reminders, row.remind_at, row.rouse) == ("bob", 2, 7.0, None)
    group = GroupRow(key="site=berlin", limit=2, reserved_by="spring", reserved_for="t1", reserved_until=5.0)
    group = replace(group, reservable_at=9.0, bandwidth=1 << 40)
    await database.write(put(group))
    loaded = await database.read(lambda unit: unit.campaigns.load(Footprint(campaign="spring", target="t1")))
    assert loaded.groups == (replace(group, version=1),)
    urgent = {"emergency": True, "urgency": EmergencyPolicy(reserve_s=1.0)}
    limits = {"bandwidth": (BandwidthPolicy(by="site", limit=4096),)}
    strategy = type(row.strategy)(name="s", cohorts=row.strategy.cohorts, **urgent, **limits)
    await database.write(put(replace(row, strategy=strategy)))
    assert (await database.read(campaign)).strategy == strategy


async def test_who_is_to_be_reminded(database: SqlDatabase) -> None:
    await made(database, "t1", remind_at=7.0)
    assert await database.read(lambda unit: list(unit.campaigns.to_remind(6.9, 9))) == []
    assert await database.read(lambda unit: list(unit.campaigns.to_remind(7.0, 9))) == ["spring"]


async def test_whom_a_new_calendar_rouses(database: SqlDatabase) -> None:
    row = await made(database, "t1", "t2", "t3", "t4", "t5", state=CampaignState.RUNNING, rouse="")
    found = await database.read(lambda unit: unit.campaigns.to_rouse())
    assert found == row
    told = {"t1": "window", "t2": "budget", "t3": "freeze", "t4": "window"}

    def work(unit: Unit) -> None:
        for name, kind in told.items():
            one = unit.campaigns.load(Footprint(campaign="spring", target=name)).assignment
            assert one is not None
            state = AssignmentState.STAGED if name == "t4" else AssignmentState.ASKING
            put(replace(one, state=state, reason_kind=kind))(unit)

    await database.write(work)

    async def waiting(after: str, limit: int = 9) -> list[str]:
        rows = await database.read(lambda unit: unit.campaigns.waiting_for_windows("spring", after, limit))
        return [one.target for one in rows]

    assert [await waiting(""), await waiting("", 1), await waiting("t1")] == [["t1", "t3"], ["t1"], ["t3"]]
    await database.write(put(replace(row, state=CampaignState.ABORTED)))
    assert await database.read(lambda unit: unit.campaigns.to_rouse()) is None


async def test_the_newest_ask_of_a_target_is_found(database: SqlDatabase) -> None:
    def work(unit: Unit) -> None:
        for number, target in enumerate(("t1", "t1", "t2")):
            unit.inbox.add_ask(target, f"{number}" * 64, {"nonce": number}, 1.0)
            for item in unit.inbox.unprocessed(9):
                unit.inbox.mark_processed(item.id)

    await database.write(work)
    item = await database.read(lambda unit: unit.inbox.latest("ask", "t1"))
    assert item is not None
    assert item.body == {"nonce": 1}
    assert await database.read(lambda unit: unit.inbox.latest("report", "t1")) is None
