"""A campaign's rehearsal: the button, and what came out drawn on one line of time."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from server.campaigns.reckoning import DONE, Fell, Reckoned
from server.campaigns.rehearsal import Band, Blast, Rehearsal, Stage, basis_lines
from server.http.access import Need
from server.http.bodies import path_id
from server.http.rehearsals import Rehearsals
from server.ports import RehearsalRecord
from server.ui.sessions import Sessions
from server.ui.wording import clock_time, plural, size, span

WIDTH = 100.0
FELL = {Fell.BEFORE: "before", Fell.WITHIN: "within", Fell.BEHIND: "behind"}
SITES, MISSED = 6, 8
WAITS_FOR = {
    "budget": "too many are down at once",
    "gate": "the cohort before it",
    "window": "its window",
    "freeze": "a freeze",
    "rate": "the rate",
    "download": "places to download",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """From the tenth to the ninetieth of a hundred runs, with the even chance, in percent of the line."""

    name: str
    start: float
    width: float
    middle: float | None
    says: str


@dataclass(frozen=True, kw_only=True)
class BlastBar:
    """How far a bad release gets: `width` in percent of the targets."""

    name: str
    width: float
    far: float
    says: str


@dataclass(frozen=True, kw_only=True)
class RehearsalPicture:
    """All of it. `begins`, `ends`: of the line of time; `is_sample`: a part of the fleet was played; `is_old`: another
    revision was rehearsed."""

    sentence: str
    basis: str
    bars: tuple[Bar, ...]
    begins: str
    ends: str
    blasts: tuple[BlastBar, ...]
    waits: tuple[tuple[str, float], ...]
    missed: tuple[tuple[str, float], ...]
    sites: tuple[tuple[str, str], ...]
    is_sample: bool
    is_old: bool


class RehearsalForms:
    """Handlers of the buttons."""

    def __init__(self, *, rehearsals: Rehearsals, sessions: Sessions) -> None:
        self._rehearsals = rehearsals
        self._sessions = sessions

    def mount(self, app: web.Application) -> None:
        """Add the forms; before the campaign's verbs, which take any word."""
        app.router.add_post("/campaigns/{campaign}/rehearse", self.start)
        app.router.add_post("/campaigns/{campaign}/rehearse/cancel", self.cancel)

    async def start(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self._sessions.for_form(request, Need.OPERATE)
        campaign = path_id(request, "campaign")
        await self._rehearsals.start(campaign, by=session.caller.name)
        return _to(campaign)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        session, _ = await self._sessions.for_form(request, Need.OPERATE)
        campaign = path_id(request, "campaign")
        await self._rehearsals.cancel(campaign, by=session.caller.name)
        return _to(campaign)


def rehearsal_picture(record: RehearsalRecord, revision: int) -> RehearsalPicture | None:
    """What a rehearsal gave, drawn; None without a result."""
    if record.result is None:
        return None
    found = msgspec.convert(record.result, Rehearsal)
    stages = [one for one in found.cohorts if one.size and one.opened_s.p50 is not None]
    ends = max((end for one in stages if (end := _late(one.decided_s)) is not None), default=0.0)
    ends = max(ends, _late(found.done_s) or 0.0, 1.0)
    bars = [_stage(one, ends, record.begins) for one in stages]
    return RehearsalPicture(
        sentence=_sentence(found, record.begins),
        basis=_basis(found),
        bars=tuple(bars),
        begins=clock_time(record.begins),
        ends=clock_time(record.begins + ends),
        blasts=tuple(_blast(one, found.targets) for one in found.blast),
        waits=tuple((WAITS_FOR.get(kind, kind), 100 * part) for kind, part in found.holds_up if part >= 0.01),
        missed=tuple((one.target, 100 * one.share) for one in found.missed[:MISSED]),
        sites=tuple((site or "no site", size(number)) for site, number in found.busiest[:SITES]),
        is_sample=found.sampled != found.targets,
        is_old=record.revision != revision,
    )


def reality_lines(record: RehearsalRecord, found: Sequence[Reckoned]) -> list[str]:
    """What happened, beside the bands."""
    return [f"{_what(one)}: {_happened(one, record.begins)}" for one in found]


def _what(one: Reckoned) -> str:
    return "The last that came was verified" if one.name == DONE else f"Cohort {one.name} was decided"


def _happened(one: Reckoned, begins: float) -> str:
    if one.real is None:
        return "never."
    said = f"{span(one.real)} after the start, {FELL[one.fell]} the band"
    if one.p10 is None or one.p90 is None:
        return f"{said}."
    return f"{said} ({span(one.p10)} to {span(one.p90)})."


def _sentence(found: Rehearsal, begins: float) -> str:
    likely, latest = found.done_s.p50, found.done_s.p90
    stopped = (
        f"In {found.stopped:.0%} of the runs a gate stops the release, though it has no defect. "
        if found.stopped
        else ""
    )
    if likely is None:
        return f"{stopped}In most runs it did not come to an end."
    text = f"{stopped}The last target that comes is verified by {clock_time(begins + likely)} UTC as likely as not"
    text += f", by {clock_time(begins + latest)} UTC in nine of ten runs." if latest is not None else "."
    if not found.is_stable:
        text += f" {_more(found, begins)}"
    if found.unreached.p50:
        text += f" About {plural(round(found.unreached.p50), 'target')} would not be reached before the order expires."
    return text


def _more(found: Rehearsal, begins: float) -> str:
    """How far the end may move yet."""
    if found.done_s.high is None:
        return "With so few runs that is rough."
    return f"More runs may move the latter to {clock_time(begins + found.done_s.high)} UTC."


def _basis(found: Rehearsal) -> str:
    of = f" of {found.targets:,}" if found.sampled != found.targets else ""
    said = f"{plural(found.replicas, 'run')} over {found.sampled:,}{of} targets in virtual time."
    known = (
        basis_lines(found.basis) if found.basis else ("Taken for granted: links are good, and people answer at once.",)
    )
    return " ".join((said, *known))


def _stage(one: Stage, ends: float, begins: float) -> Bar:
    start = one.opened_s.p50 or 0.0
    end = one.decided_s.p90 if one.decided_s.p90 is not None else ends
    middle = one.decided_s.p50
    decided = f"decided by {clock_time(begins + middle)} UTC as likely as not" if middle is not None else "not decided"
    return Bar(
        name=one.name,
        start=round(WIDTH * start / ends, 2),
        width=round(max(0.6, WIDTH * (end - start) / ends), 2),
        middle=round(min(99.4, WIDTH * middle / ends), 2) if middle is not None else None,
        says=f"{plural(one.size, 'target')}, {decided}",
    )


def _blast(one: Blast, targets: int) -> BlastBar:
    likely, most = one.harmed.p50 or 0.0, one.harmed.p90 or 0.0
    says = (
        f"{round(likely):,} harmed as likely as not, {round(most):,} in nine of ten runs; stopped in {one.stopped:.0%}"
    )
    if one.admitted is not None and one.admitted.p90 is not None:
        says += f", {round(one.admitted.p90):,} permitted at most in nine of ten"
    return BlastBar(
        name=f"{100 * one.rate:g} % bad",
        width=round(WIDTH * likely / max(1, targets), 2),
        far=round(WIDTH * most / max(1, targets), 2),
        says=says,
    )


def _late(band: Band) -> float | None:
    return band.p90 if band.p90 is not None else band.p50


def _to(campaign: str) -> web.Response:
    return web.Response(status=303, headers={"Location": f"/campaigns/{campaign}#rehearsal"})
