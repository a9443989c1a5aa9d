"""Checks elsewhere: what campaigns want to know of other systems, asked until they answer.

Rules
- What is to be asked, how often it was and when it is again stands in rows; a server that starts anew goes on there.
- A good or a bad answer becomes a word with an end, and a line on the trail. Anything else (none, a broken one, one that asks for
  patience) is asked for again, after twice as long each time up to `MOST_WAIT_S`, shortened by a share that differs for each.
- What nobody wants to know any more, since its campaign is over, is dropped.
"""

import asyncio
import hashlib
import logging
from typing import Any

from firmware.errors import OtariaError
from server.campaigns.rounds import forever
from server.planner.rows import CampaignRow
from server.planner.slices import Footprint
from server.planner.states import LIVE
from server.planner.surroundings import Word
from server.ports import Answer, CheckPort, Clock, Database, OpenInquiry, Unit

LOOK_EVERY_S = 2.0
PAGE = 64
AT_ONCE = 8
FIRST_WAIT_S, MOST_WAIT_S = 10.0, 900.0
GOOD_LIVES_S, BAD_LIVES_S = 86400.0, 900.0
"""For how long a word of a check holds that says nothing about it."""
_log = logging.getLogger(__name__)


class Checks:
    """Keep `run` running."""

    def __init__(self, *, database: Database, port: CheckPort, clock: Clock) -> None:
        self._database = database
        self._port = port
        self._clock = clock
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Ask what is due until cancelled."""
        await forever(self.settle, LOOK_EVERY_S, _log, "checks")

    async def settle(self) -> int:
        """Ask once all that is due now, side by side; returns how many were asked."""
        now = self._clock.now()
        due = await self._database.read(
            lambda unit: [(one, _campaign(unit, one)) for one in unit.inquiries.due(now, PAGE)]
        )
        await asyncio.gather(*(self._one(inquiry, campaign) for inquiry, campaign in due))
        return len(due)

    async def _one(self, inquiry: OpenInquiry, campaign: CampaignRow | None) -> None:
        if campaign is None or campaign.state not in LIVE:
            await self._database.write(lambda unit: unit.inquiries.drop(inquiry))
            return
        try:
            async with self._limit:
                answer = await self._port.ask(inquiry.name, _question(inquiry, campaign))
        except OtariaError as error:
            answer = Answer(verdict="wait", reason=error.text)
        now = self._clock.now()
        await self._database.write(lambda unit: _take(unit, inquiry, campaign, answer, now))


def wait_s(inquiry: OpenInquiry) -> float:
    """How long after an attempt without an answer it is asked again."""
    longest = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(inquiry.attempts, 16))
    digest = hashlib.sha256(f"{inquiry.name} {inquiry.key} {inquiry.attempts}".encode()).digest()
    return longest * (1 - int.from_bytes(digest[:4], "big") / 2**33)


def _take(unit: Unit, inquiry: OpenInquiry, campaign: CampaignRow, answer: Answer, now: float) -> None:
    """Keep what was said, unless somebody else did meanwhile."""
    if answer.verdict == "wait":
        pause_s = wait_s(inquiry) if answer.retry_s is None else answer.retry_s
        is_kept = unit.inquiries.put_off(inquiry, now + pause_s, answer.reason[:500])
        if is_kept and not inquiry.attempts:
            _tell(unit, inquiry, campaign, "check-waits", f"{inquiry.name} gave no answer. {answer.reason}", now)
        return
    if not unit.inquiries.answered(inquiry):
        return
    is_good = answer.verdict == "good"
    lives_s = answer.lives_s if answer.lives_s is not None else GOOD_LIVES_S if is_good else BAD_LIVES_S
    word = Word(
        name=inquiry.name,
        key=inquiry.key,
        good=is_good,
        by=f"the check {inquiry.name}",
        reason=answer.reason[:500],
        at=now,
        expires_at=now + lives_s,
    )
    unit.fleet.put_word(word)
    why = f": {answer.reason}" if answer.reason else ""
    text = f"{inquiry.name} says that {inquiry.key} is {answer.verdict}{why}."
    _tell(unit, inquiry, campaign, "check-answered", text, now)


def _campaign(unit: Unit, inquiry: OpenInquiry) -> CampaignRow | None:
    return unit.campaigns.load(Footprint(campaign=inquiry.campaign)).campaign


def _question(inquiry: OpenInquiry, campaign: CampaignRow) -> dict[str, Any]:
    release = campaign.release
    return {
        "v": 1,
        "check": inquiry.name,
        "about": inquiry.key,
        "target": inquiry.target,
        "campaign": campaign.id,
        "change_id": campaign.change_id,
        "product": release.product,
        "version": release.version,
        "attempt": inquiry.attempts + 1,
    }


def _tell(unit: Unit, inquiry: OpenInquiry, campaign: CampaignRow, kind: str, text: str, now: float) -> None:
    unit.audit.add(
        at=now,
        kind=kind,
        text=text[:1000],
        actor=f"check {inquiry.name}",
        change_id=campaign.change_id,
        campaign=campaign.id,
        target=inquiry.target,
        data={"about": inquiry.key},
    )
