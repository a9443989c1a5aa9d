"""Checks elsewhere, from the file of a campaign to the permit: asked, asked again, kept over restarts, and asked no more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from firmware.errors import OtariaError, RefusedError, UnavailableError
from server.campaigns.checks import BAD_LIVES_S, MOST_WAIT_S, Checks, wait_s
from server.campaigns.service import CampaignService
from server.planner.words import Verb
from server.ports import Answer, OpenInquiry
from tests.server.campaigns.conftest import CAMPAIGN

CHECKED = CAMPAIGN.replace("  budgets:", "  preconditions: [{check: backup, per: PER}]\n  budgets:")


@dataclass
class FakePort:
    """`CheckPort`: says what it is told to, or breaks."""

    answer: Answer | OtariaError = field(default_factory=lambda: Answer(verdict="good", reason="job 7"))
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    async def ask(self, name: str, question: Mapping[str, Any]) -> Answer:
        assert name == "backup"
        self.asked.append(question)
        if isinstance(self.answer, OtariaError):
            raise self.answer
        return self.answer


def checks(stage: Any, port: FakePort) -> Checks:
    return Checks(database=stage.database, port=port, clock=stage.clock)


def knows_the_check(stage: Any) -> None:
    stage.service = CampaignService(stage.database, stage.clock, stage.engine, checks=["backup"])


async def held(stage: Any, per: str = "target", count: int = 1) -> None:
    """The campaign runs, and its targets have asked once."""
    await stage.enrol(*(f"t{index}" for index in range(count)))
    await stage.publish_releases()
    await stage.settle()
    knows_the_check(stage)
    await stage.start(CHECKED.replace("PER", per).replace("count: 1", f"count: {count}"))
    await stage.settle()
    await act(stage)
    assert activations(stage) == 0


async def act(stage: Any) -> None:
    for device in stage.broker.devices.values():
        device.act()
    await stage.settle()


def activations(stage: Any) -> int:
    return sum(device.activations for device in stage.broker.devices.values())


async def lines(stage: Any, kind: str) -> list[Any]:
    found = await stage.database.read(lambda unit: unit.audit.page(limit=1000, campaign="spring"))
    return [line for line in found if line.kind == kind]


async def test_a_good_answer_lets_the_target_go_and_stands_on_the_trail(stage: Any) -> None:
    await held(stage)
    port = FakePort()
    await checks(stage, port).settle()
    (question,) = port.asked
    view = await stage.service.view("spring")
    assert question == {
        "v": 1,
        "check": "backup",
        "about": "t0",
        "target": "t0",
        "campaign": "spring",
        "change_id": view.row.change_id,
        "product": "lamp",
        "version": "2",
        "attempt": 1,
    }
    (line,) = await lines(stage, "check-answered")
    assert (line.text, line.actor) == ("backup says that t0 is good: job 7.", "check backup")
    await act(stage)
    assert activations(stage) == 1
    assert await checks(stage, port).settle() == 0


async def test_a_bad_answer_holds_it_until_it_expires(stage: Any) -> None:
    await held(stage)
    port = FakePort(Answer(verdict="bad", reason="no backup since May"))
    await checks(stage, port).settle()
    await act(stage)
    assert (await stage.service.explain("t0")).text == "backup was refused by the check backup: no backup since May."
    stage.clock.time += BAD_LIVES_S
    await act(stage)
    port.answer = Answer(verdict="good")
    assert await checks(stage, port).settle() == 1
    await act(stage)
    assert activations(stage) == 1


@pytest.mark.parametrize(
    "broken", [UnavailableError("check-unavailable", "Nobody answers."), RefusedError("check-unusable", "It is none.")]
)
async def test_without_an_answer_it_stays_waiting_with_the_reason_and_is_asked_again_later(
    stage: Any, broken: OtariaError
) -> None:
    await held(stage)
    port = FakePort(broken)
    for number in range(1, 4):
        assert await checks(stage, port).settle() == 1
        assert await checks(stage, port).settle() == 0, "not before its time"
        await act(stage)
        said = await stage.service.explain("t0")
        assert said.kind == "check"
        assert broken.text in said.text
        assert ("once" if number == 1 else f"{number} times") in said.text
        stage.boot()
        knows_the_check(stage)
        stage.clock.time += MOST_WAIT_S
    assert [question["attempt"] for question in port.asked] == [1, 2, 3]
    assert len(await lines(stage, "check-waits")) == 1, "said once"
    port.answer = Answer(verdict="good")
    await checks(stage, port).settle()
    await act(stage)
    assert activations(stage) == 1


async def test_it_may_say_itself_when_it_wants_to_be_asked_again(stage: Any) -> None:
    await held(stage)
    port = FakePort(Answer(verdict="wait", reason="It runs.", retry_s=77.0))
    await checks(stage, port).settle()
    stage.clock.time += 76
    assert await checks(stage, port).settle() == 0
    stage.clock.time += 1
    assert await checks(stage, port).settle() == 1


async def test_a_cohort_is_asked_about_once(stage: Any) -> None:
    await held(stage, "cohort", count=3)
    port = FakePort()
    assert await checks(stage, port).settle() == 1
    assert port.asked[0]["about"] == "spring/canary"
    await act(stage)
    assert activations(stage) == 2, "as many as the budget lets go"


async def test_what_nobody_wants_to_know_any_more_is_dropped(stage: Any) -> None:
    await held(stage)
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    port = FakePort()
    assert await checks(stage, port).settle() == 1
    assert await checks(stage, port).settle() == 0
    assert port.asked == []


async def test_an_answer_that_comes_twice_counts_once(stage: Any) -> None:
    await held(stage)
    (inquiry,) = await stage.database.read(lambda unit: unit.inquiries.due(stage.clock.time, 10))
    assert await stage.database.write(lambda unit: unit.inquiries.answered(inquiry))
    assert not await stage.database.write(lambda unit: unit.inquiries.answered(inquiry))
    assert not await stage.database.write(lambda unit: unit.inquiries.put_off(inquiry, 0.0, ""))


async def test_a_check_that_is_not_configured_is_refused_at_apply_and_dry(stage: Any) -> None:
    await stage.enrol("t0")
    await stage.publish_releases()
    await stage.settle()
    spec = stage.service.parse(CHECKED.replace("PER", "target"))
    for doing in (stage.service.preview(spec), stage.service.create(spec, by="ann"), stage.service.plan(spec)):
        with pytest.raises(RefusedError) as refused:
            await doing
        assert refused.value.kind == "check-unknown"


def test_waits_grow_differ_and_are_bounded() -> None:
    def one(key: str, attempts: int) -> float:
        given = {"name": "n", "campaign": "c", "target": "t", "asked_at": 0.0, "next_at": 0.0}
        return wait_s(OpenInquiry(key=key, attempts=attempts, **given))

    waits = [one("a", number) for number in range(60)]
    assert 5 <= waits[0] <= 10
    assert all(MOST_WAIT_S / 2 <= wait <= MOST_WAIT_S for wait in waits[7:])
    assert len({one(f"t{index}", 3) for index in range(50)}) == 50
