"""Presence through the whole server: learned from hostile and honest words, told in forecasts and explanations, chosen by when a
campaign is made; and never a reason to permit, refuse or fail anything."""

from collections.abc import Mapping

import pytest

from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.report import Presence
from firmware.protocol.topics import presence
from server.campaigns.forecasting import FRESH_S, Forecaster
from server.campaigns.housekeeping import Housekeeping
from server.campaigns.presence_watch import PresenceWatch
from server.errors import NotFoundError
from server.planner.availability import HOUR_S, SETTLE_S, Availability
from server.planner.words import AssignmentState, CampaignState, Verb
from tests.server.campaigns.conftest import CAMPAIGN, Stage

DAY_S = 86400.0
MONDAY = 1_790_553_600.0
AUTO = CAMPAIGN + "  order_ttl: auto\n"
FILLED = CAMPAIGN.replace("count: 1}", "count: 1, reachable: true}")


async def say(stage: Stage, name: str, online: bool) -> None:
    body = canonical(Presence(session="s", online=online))
    await stage.ingest.on_message(presence(name), body, False)
    await stage.ingest.settle()


async def records(stage: Stage) -> Mapping[str, Availability]:
    now = stage.clock.now()
    return await stage.database.inner.read(lambda unit: unit.presences.of(list(stage.broker.devices), now))


class Link:
    """The server's link to its broker, watched."""

    def __init__(self, stage: Stage) -> None:
        self.up = True
        self.stage = stage
        self.watch = PresenceWatch(stage.database, stage.clock, lambda: self.up)

    async def pass_by(self, seconds: float) -> None:
        self.stage.clock.time += seconds
        await self.watch.note()


async def week_of_nights(stage: Stage, *names: str, weeks: int = 5) -> Link:
    """A link since five weeks, in which these come at 20:00 and go at 04:00; it ends on a Monday at 10:00."""
    stage.clock.time = MONDAY - weeks * 7 * DAY_S
    link = Link(stage)
    await link.watch.linked()
    for name in names:
        await say(stage, name, False)
    for _ in range(weeks * 7):
        await link.pass_by(20 * HOUR_S)
        for name in names:
            await say(stage, name, True)
        await link.pass_by(8 * HOUR_S)
        for name in names:
            await say(stage, name, False)
        stage.clock.time -= 4 * HOUR_S
    await link.pass_by(10 * HOUR_S)
    return link


async def test_what_is_said_is_learned_and_a_server_that_was_away_learned_nothing(stage: Stage) -> None:
    await stage.enrol("t1")
    link = Link(stage)
    await link.watch.linked()
    await say(stage, "t1", True)
    await link.pass_by(SETTLE_S + 2 * HOUR_S)
    await link.pass_by(3 * DAY_S - 60)
    stage.clock.time += 2 * DAY_S
    await link.watch.linked()
    await say(stage, "t1", True)
    await link.pass_by(SETTLE_S)
    row = (await records(stage))["t1"]
    assert sum(row.online_s) == pytest.approx(row.watched_s)
    assert row.watched_s < 3 * DAY_S + 3 * HOUR_S


async def test_while_there_is_no_link_nothing_is_watched(stage: Stage) -> None:
    await stage.enrol("t1")
    link = Link(stage)
    await link.watch.linked()
    await say(stage, "t1", True)
    link.up = False
    await link.pass_by(DAY_S)
    assert (await records(stage))["t1"].watched_s == 0


async def test_housekeeping_learns_of_who_neither_comes_nor_goes(stage: Stage) -> None:
    await stage.enrol("t1", "t2")
    link = Link(stage)
    await link.watch.linked()
    await say(stage, "t1", True)
    await link.pass_by(8 * DAY_S)
    await Housekeeping(stage.database, stage.clock).tidy()
    stage.clock.time += 100 * DAY_S
    assert (await records(stage))["t1"].watched_s > 6 * DAY_S * 0.1
    assert list(await records(stage)) == ["t1"]


async def test_expiry_is_chosen_once_told_and_kept(stage: Stage) -> None:
    await stage.enrol("t1", "t2")
    await stage.publish_releases()
    await week_of_nights(stage, "t1", "t2")
    made = await stage.service.create(stage.service.parse(AUTO), by="ann")
    days = made.row.strategy.order_ttl_s / DAY_S
    assert 1 <= days <= 20
    assert days == int(days)
    assert any(f"expire after {days:.3g} days (order_ttl: auto)" in note for note in made.warnings)
    stage.clock.time += 60 * DAY_S
    again = await stage.service.plan(stage.service.parse(AUTO))
    assert again.is_same
    assert (await stage.service.view("spring")).row.strategy.order_ttl_s == days * DAY_S


async def test_without_any_record_orders_live_as_usual(stage: Stage) -> None:
    await stage.enrol("t1")
    await stage.publish_releases()
    made = await stage.service.create(stage.service.parse(AUTO), by="ann")
    assert made.row.strategy.order_ttl_s == 30 * DAY_S
    assert any("nothing is known yet" in note for note in made.warnings)
    (note,) = (await stage.service.preview(stage.service.parse(FILLED.replace("spring", "other")))).warnings
    assert note == "No cohort is filled up (reachable): nothing is known yet of when targets come."


async def test_a_revision_may_leave_it_open_and_chooses_then(stage: Stage) -> None:
    await stage.enrol("t1", "t2")
    await stage.publish_releases()
    await week_of_nights(stage, "t1", "t2")
    await stage.service.create(stage.service.parse(CAMPAIGN), by="ann")
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    found = await stage.service.plan(stage.service.parse(AUTO))
    assert [one.where for one in found.differences] == ["order_ttl", "order_ttl"]
    revised = await stage.service.create(stage.service.parse(AUTO), by="ann")
    assert revised.row.strategy.order_ttl_s == found.strategy.order_ttl_s < 30 * DAY_S  # type: ignore[union-attr]
    assert (await stage.service.plan(stage.service.parse(AUTO))).is_same
    with pytest.raises(RefusedError, match="sizes"):
        await stage.service.create(stage.service.parse(FILLED), by="ann")


async def test_a_cohort_of_reachable_ones_is_filled_up_and_says_so(stage: Stage) -> None:
    names = [f"t{number}" for number in range(8)]
    await stage.enrol(*names)
    await stage.publish_releases()
    await week_of_nights(stage, *names, weeks=3)
    made = await stage.service.create(stage.service.parse(FILLED), by="ann")
    canary = made.cohorts[0]
    assert canary.size in (3, 4), "there a third of the time"
    assert any(f"Cohort canary takes {canary.size} targets for 1 reachable ones" in note for note in made.warnings)
    plain = await stage.service.create(stage.service.parse(CAMPAIGN.replace("spring", "plain")), by="ann")
    assert plain.cohorts[0].size == 1


async def test_who_is_waited_for_is_told_with_its_habit(stage: Stage) -> None:
    await stage.enrol("t1")
    await stage.publish_releases()
    await week_of_nights(stage, "t1")
    stage.broker.devices["t1"].online = False
    await stage.service.create(stage.service.parse(CAMPAIGN), by="ann")
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    await stage.settle()
    why = await stage.service.explain("t1")
    assert why.kind == "unreached"
    assert "usually online Mon-Sun 00-04, 20-24 UTC, next likely Mon 20:00." in why.text
    await say(stage, "t1", True)
    assert "usually" not in (await stage.service.explain("t1")).text


async def test_a_forecast_of_a_draft_and_of_one_that_runs(stage: Stage) -> None:
    await stage.enrol("t1", "t2", "t3")
    await stage.publish_releases()
    await week_of_nights(stage, "t1", "t2", "t3")
    forecaster = Forecaster(stage.database, stage.clock)
    await stage.service.create(stage.service.parse(CAMPAIGN), by="ann")
    draft = await forecaster.forecast("spring")
    assert (draft.targets, draft.known, [one.name for one in draft.cohorts]) == (3, 1.0, ["canary", "rest"])
    evening = MONDAY + 20 * HOUR_S
    assert evening - 3 * HOUR_S < draft.done.p50 < evening + 10 * HOUR_S
    assert draft.dominated_by["absence"] > 0.9
    stage.clock.time += FRESH_S / 2
    assert await forecaster.forecast("spring") is draft, "the same a short time later"
    stage.clock.time += FRESH_S
    assert await forecaster.forecast("spring") is not draft
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    assert (await forecaster.forecast("spring")).targets == 3
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    with pytest.raises(RefusedError, match="aborted") as caught:
        await forecaster.forecast("spring")
    assert caught.value.kind == "forecast-over"
    with pytest.raises(NotFoundError):
        await forecaster.forecast("other")


async def test_nobody_foretells_what_was_never_watched(stage: Stage) -> None:
    await stage.enrol("t1")
    await stage.publish_releases()
    await stage.service.create(stage.service.parse(CAMPAIGN), by="ann")
    with pytest.raises(RefusedError, match="must have heard their presence first") as caught:
        await Forecaster(stage.database, stage.clock).forecast("spring")
    assert caught.value.kind == "nothing-learned"


async def test_a_forged_presence_permits_and_fails_nothing(stage: Stage) -> None:
    await stage.enrol("t1", "t2")
    await stage.publish_releases()
    link = await week_of_nights(stage, "t1", "t2")
    await stage.service.create(stage.service.parse(CAMPAIGN), by="ann")
    await stage.service.command("spring", Verb.START, by="ann", reason="")
    stage.broker.devices["t1"].online = stage.broker.devices["t2"].online = False
    for online in (True, False, True):
        for name in ("t1", "t2"):
            await say(stage, name, online)
        await link.pass_by(60)
    await stage.settle()
    rows = (await stage.service.assignments("spring")).rows
    assert {row.state for row in rows} <= {AssignmentState.ORDERED, AssignmentState.PLANNED}
    assert (await stage.service.view("spring")).row.state is CampaignState.RUNNING


@pytest.mark.parametrize("fault", ["reads", "writes"])
async def test_presence_that_could_not_be_taken_in_is_kept_and_what_comes_after_it_counts(
    stage: Stage, fault: str
) -> None:
    """A last will is said once."""
    await stage.enrol("t1", "t2", "t3")
    await stage.settle()
    for name in ("t1", "t2", "t3"):
        await say(stage, name, True)
    setattr(stage.database, f"fail_{fault}", UnavailableError("storage-fault", "The disk is full."))
    for name, online in (("t1", False), ("t2", False), ("t2", True), ("t3", True), ("t3", False)):
        await say(stage, name, online)
    assert (stage.ingest.dropped, stage.ingest.waiting) == ({}, 3)
    setattr(stage.database, f"fail_{fault}", None)
    await stage.ingest.settle()
    assert {name: one.online for name, one in (await records(stage)).items()} == {"t1": False, "t2": True, "t3": False}
    assert (stage.ingest.dropped, stage.ingest.waiting) == ({}, 0)
