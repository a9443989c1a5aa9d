"""What needs somebody, and how a timeline is told: pure rules over plain values."""

import dataclasses

import pytest
from msgspec.structs import replace

from server.planner.rows import Approval, CampaignRow, CohortRow, ReleaseKey
from server.planner.strategy import Strategy
from server.planner.words import AssignmentState as A
from server.planner.words import CampaignState, CohortState
from server.ports import AuditRecord, CampaignView, Webhook, WebhookState
from server.ui.attention import needs, webhook_needs
from server.ui.pictures import picture
from server.ui.timeline import TOGETHER_S, entries, gathered
from server.ui.wording import campaign_tone, clock_times

NOW = 1_800_000_000.0


def _view(
    name: str, state: CampaignState, *cohorts: CohortRow, product: str = "gateway", at: float = 1.0
) -> CampaignView:
    release = ReleaseKey(product=product, version="2.0.0", counter=2, sha256="ab" * 32)
    strategy = Strategy(name="s", cohorts=())
    row = CampaignRow(id=name, change_id=name, state=state, release=release, strategy=strategy, seed=1)
    return CampaignView(row=row, name=name, cohorts=cohorts, created_at=at, created_by="mara")


def _cohort(state: CohortState, counts: dict[A, int]) -> CohortRow:
    return CohortRow(campaign="c", index=0, name="canary", state=state, size=sum(counts.values()), counts=counts)


FAILED = _cohort(CohortState.FAILED, {A.FELL_BACK: 4, A.VERIFIED: 1})


@pytest.mark.parametrize(
    ("state", "cohort", "word"),
    [
        (CampaignState.DRAFT, FAILED, "until somebody starts it"),
        (CampaignState.PAUSED, FAILED, "Paused"),
        (CampaignState.AWAITING_APPROVAL, FAILED, "Awaiting approval"),
        (CampaignState.ABORTED, FAILED, "stopped by the gate of cohort canary: of 5 targets, 4 fell back, 1 verified."),
        (CampaignState.RUNNING, _cohort(CohortState.OPEN, {A.MISSING: 2, A.REGRESSED: 1}), "2 missing, 1 regressed"),
    ],
)
def test_what_waits_for_somebody_says_so(state: CampaignState, cohort: CohortRow, word: str) -> None:
    (need,) = needs([_view("spring", state, cohort)])
    assert word in need.text
    assert need.advice


@pytest.mark.parametrize(
    ("state", "cohort"),
    [
        (CampaignState.RUNNING, _cohort(CohortState.OPEN, {A.TRIAL: 2, A.FELL_BACK: 1})),
        (CampaignState.COMPLETED, _cohort(CohortState.PASSED, {A.VERIFIED: 2})),
        (CampaignState.ABORTED, _cohort(CohortState.OPEN, {A.CANCELLED: 2})),
        (CampaignState.WATCHING, _cohort(CohortState.PASSED, {A.VERIFIED: 2})),
    ],
)
def test_what_moves_by_itself_or_was_decided_by_a_person_needs_nobody(state: CampaignState, cohort: CohortRow) -> None:
    assert needs([_view("spring", state, cohort)]) == []


@pytest.mark.parametrize(
    ("reminders", "tone", "word"),
    [
        (0, "attention", ""),
        (1, "attention", ""),
        (2, "bad", "overdue: it was asked for again 2 times"),
        (3, "bad", "urgent"),
    ],
)
def test_approvals_that_are_owed_get_more_urgent(reminders: int, tone: str, word: str) -> None:
    view = _view("spring", CampaignState.COMPLETED)
    owing = replace(
        view.row,
        approvals_needed=1,
        asked_by="mara",
        reminders=reminders,
        strategy=Strategy(name="s", cohorts=(), emergency=True),
    )
    (need,) = needs([dataclasses.replace(view, row=owing)])
    assert need.tone == tone
    assert word in need.text
    declined = replace(owing, declined=(Approval(by="bob", at=1.0, reason="why?"),))
    (need,) = needs([dataclasses.replace(view, row=declined)])
    assert need.tone == "bad"
    assert need.text.endswith("bob declined it: why?.")


def test_a_stopped_campaign_needs_somebody_until_the_next_of_its_product() -> None:
    stopped = _view("first", CampaignState.ABORTED, FAILED)
    other = _view("other", CampaignState.COMPLETED, product="pump", at=2.0)
    assert [need.view.name for need in needs([other, stopped])] == ["first"]
    assert needs([_view("second", CampaignState.COMPLETED, at=2.0), stopped]) == []


def test_a_campaign_that_its_gate_stopped_looks_bad_and_one_that_a_person_stopped_does_not() -> None:
    row = _view("spring", CampaignState.ABORTED).row
    assert campaign_tone(row, [FAILED]) == "bad"
    assert campaign_tone(row, [replace(FAILED, state=CohortState.OPEN)]) == "aside"


def test_a_cohort_that_never_opened_does_not_say_that_it_will() -> None:
    closed = _cohort(CohortState.CLOSED, {A.PLANNED: 3})
    before, after = picture(replace(closed, index=1), total=3), picture(closed, total=3, over=True)
    assert picture(replace(closed, index=0), total=3).sentence == "Opens when the campaign starts."
    assert (before.gate, before.sentence) == ("not open yet", "Opens when the cohort before it has passed.")
    assert (after.gate, after.sentence) == ("never opened", "Never opened: none of its targets was touched.")
    assert after.segments[0].label == "never ordered"


def _record(number: int, target: str | None, text: str, at: float) -> AuditRecord:
    return AuditRecord(id=number, at=at, kind="k", text=text, target=target, campaign="c")


def test_the_same_of_many_targets_is_one_entry_but_not_across_what_concerns_all_or_a_long_time() -> None:
    records = [
        _record(9, "a", "committed", 200.0),
        _record(8, "b", "trial", 199.0),
        _record(7, "b", "committed", 198.0),
        _record(6, None, "gate passed", 197.0),
        _record(5, "c", "committed", 196.0),
        _record(4, "d", "committed", 196.0 - TOGETHER_S - 1),
    ]
    told = [(entry.text, entry.targets, entry.since, entry.at) for entry in gathered(records)]
    assert told == [
        ("committed", ("a", "b"), 198.0, 200.0),
        ("trial", ("b",), 199.0, 199.0),
        ("gate passed", (), 197.0, 197.0),
        ("committed", ("c",), 196.0, 196.0),
        ("committed", ("d",), 196.0 - TOGETHER_S - 1, 196.0 - TOGETHER_S - 1),
    ]
    assert len(entries(records)) == len(records)


@pytest.mark.parametrize(
    ("since", "until", "text"),
    [
        (1_700_000_000.2, 1_700_000_000.9, "14 Nov 22:13:20"),
        (1_700_000_000.0, 1_700_000_006.0, "14 Nov 22:13:20 – 22:13:26"),
        (1_700_006_399.0, 1_700_006_401.0, "14 Nov 23:59:59 – 15 Nov 00:00:01"),
    ],
)
def test_an_entry_says_from_when_to_when(since: float, until: float, text: str) -> None:
    assert clock_times(since, until) == text


@pytest.mark.parametrize(
    ("hook", "tone"),
    [
        (Webhook(name="a", url="", salt="", after=0, made_at=0, by="", state=WebhookState.OFF), "bad"),
        (Webhook(name="a", url="", salt="", after=0, made_at=0, by="", failing_since=NOW - 3600), "attention"),
        (Webhook(name="a", url="", salt="", after=0, made_at=0, by="", failing_since=NOW - 3500), None),
        (
            Webhook(name="a", url="", salt="", after=0, made_at=0, by="", failing_since=0, state=WebhookState.PAUSED),
            None,
        ),
    ],
)
def test_a_webhook_that_takes_nothing_needs_somebody(hook: Webhook, tone: str | None) -> None:
    assert [need.tone for need in webhook_needs([hook], NOW)] == ([tone] if tone else [])
