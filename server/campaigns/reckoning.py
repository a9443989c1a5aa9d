"""A rehearsal held against what really happened: where reality fell in its bands, and how often it does.

Rules
- A band from p10 to p90 should hold reality in four of five campaigns. What never happened is later than everything.
- Only a campaign that went to its end is reckoned, and only by a rehearsal of the revision that it had in the end. That somebody
  paused it in between is not known here, and makes it later than was foretold.
- When it was through comes from its course, and when a cohort was decided from when the next one opened: both are kept anyway.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec
from msgspec import Struct

from server.campaigns.chronicle import campaign_course
from server.campaigns.rehearsal import Band, Rehearsal
from server.planner.rows import CohortRow
from server.planner.words import LATE, AssignmentState, CampaignState
from server.ports import CampaignView, Point, RehearsalRecord, RehearsalState, Unit

OVER = (CampaignState.WATCHING, CampaignState.COMPLETED)
DONE = "done"
MOST = 100


class Fell(StrEnum):
    """Where reality fell in a band."""

    BEFORE = "before"
    WITHIN = "within"
    BEHIND = "behind"


class Reckoned(Struct, frozen=True, kw_only=True):
    """What was foretold of `name` (`done`, or a cohort: when it was decided) and what happened, in seconds after the start."""

    name: str
    p10: float | None
    p90: float | None
    real: float | None
    fell: Fell


class Hits(Struct, frozen=True, kw_only=True):
    """How often reality fell before, within and behind the band."""

    before: int = 0
    within: int = 0
    behind: int = 0


class InHindsight(Struct, frozen=True, kw_only=True):
    """A campaign that was rehearsed, and what became of it."""

    campaign: str
    reality: tuple[Reckoned, ...]


class Hindsight(Struct, frozen=True, kw_only=True):
    """How often reality fell in the bands: of when campaigns were through (`done`), and of when cohorts were decided."""

    campaigns: tuple[InHindsight, ...]
    done: Hits
    cohorts: Hits


def fell(band: Band, real: float | None) -> Fell:
    """Where it fell; None, for what never happened, is later than all."""
    low, at, high = (math.inf if one is None else one for one in (band.p10, real, band.p90))
    if at < low:
        return Fell.BEFORE
    return Fell.BEHIND if at > high else Fell.WITHIN


def reckoned(record: RehearsalRecord, view: CampaignView, course: Sequence[Point]) -> tuple[Reckoned, ...]:
    """What the rehearsal said beside what happened; nothing while that isn't known, or it was another campaign that was
    rehearsed."""
    began = next((one.opened_at for one in view.cohorts if one.opened_at is not None), None)
    if record.state is not RehearsalState.DONE or record.result is None or began is None:
        return ()
    if view.row.state not in OVER or record.revision != view.row.revision:
        return ()
    foretold = msgspec.convert(record.result, Rehearsal)
    real = _decided(view.cohorts)
    bands = {one.name: one.decided_s for one in foretold.cohorts if one.size and one.name in real}
    if view.row.state is CampaignState.COMPLETED:
        bands, real = {**bands, DONE: foretold.done_s}, {**real, DONE: _through(course)}
    found = []
    for name, band in bands.items():
        at = real[name]
        after = None if at is None else at - began
        found.append(Reckoned(name=name, p10=band.p10, p90=band.p90, real=after, fell=fell(band, after)))
    return tuple(found)


def of_campaign(unit: Unit, record: RehearsalRecord) -> tuple[Reckoned, ...]:
    """`reckoned` by what is kept of the campaign."""
    view = unit.campaigns.view(record.campaign)
    return reckoned(record, view, unit.courses.get(campaign_course(record.campaign))) if view else ()


def hindsight(unit: Unit) -> Hindsight:
    """Of the newest `MOST` rehearsals, those whose campaigns have ended."""
    found = [(one.campaign, of_campaign(unit, one)) for one in unit.rehearsals.newest(MOST)]
    known = [InHindsight(campaign=name, reality=reality) for name, reality in found if reality]
    every = [one for campaign in known for one in campaign.reality]
    return Hindsight(
        campaigns=tuple(known),
        done=hits([one for one in every if one.name == DONE]),
        cohorts=hits([one for one in every if one.name != DONE]),
    )


def hits(found: Sequence[Reckoned]) -> Hits:
    """How often each happened."""
    places = [one.fell for one in found]
    return Hits(**{str(where): places.count(where) for where in Fell})


def _decided(cohorts: Sequence[CohortRow]) -> dict[str, float | None]:
    """When each cohort was decided whose next one has opened."""
    found: dict[str, float | None] = {}
    for cohort, after in pairwise(cohorts):
        if cohort.size and after.opened_at is not None and after.name != LATE:
            found[cohort.name] = after.opened_at
    return found


def _through(course: Sequence[Point]) -> float | None:
    """When as many were verified as ever were; None when nobody was."""
    most = max((point.values.get(AssignmentState.VERIFIED, 0.0) for point in course), default=0.0)
    if not most:
        return None
    return next(point.at for point in course if point.values.get(AssignmentState.VERIFIED, 0.0) == most)


def hit_sentence(found: Hits, what: str) -> str:
    """How often, for people; empty without any."""
    total = found.before + found.within + found.behind
    if not total:
        return ""
    return f"{what}: {found.within} of {total} within the band, {found.before} before it, {found.behind} behind it."
