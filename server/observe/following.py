"""Follows the trail and counts what it tells: outcomes of targets, and how long things took.

Every act is on the trail, so whoever counts its lines forgets none, and needs no word in the code that acts. It begins where the
trail ends when this server starts to lead: what was before, Prometheus has seen or never will.
"""

from collections.abc import Mapping, Sequence

from server.observe.meters import Meters
from server.ports import Course, Database, TrailEvent, Unit

PAGE = 2000
VERIFIED, PERMITTED, FELL_BACK, ROLLED_BACK = "verified", "permit-granted", "fell-back", "rolled-back"
OUTCOMES = (
    VERIFIED,
    FELL_BACK,
    ROLLED_BACK,
    "failed",
    "refused",
    "missing",
    "regressed",
    "expired",
    "skipped",
    "superseded",
)
_TIMED = (VERIFIED, PERMITTED, FELL_BACK)


class TrailFollower:
    """Call `follow` now and then."""

    def __init__(self, database: Database, meters: Meters) -> None:
        self._database, self._meters = database, meters
        self._after: int | None = None
        for outcome in OUTCOMES:
            meters.outcomes.labels(outcome)

    async def follow(self) -> None:
        """Count what is new. Raises `UnavailableError`."""
        while True:
            events, courses = await self._database.read(self._page)
            for event in events:
                self._count(event, courses)
            if len(events) < PAGE:
                return

    def _page(self, unit: Unit) -> tuple[Sequence[TrailEvent], Mapping[tuple[str, str], Course]]:
        if self._after is None:
            self._after = unit.observations.trail_end()
        events = unit.observations.trail(self._after, PAGE)
        timed = {(one.campaign, one.target) for one in events if one.kind in _TIMED and one.campaign and one.target}
        courses = unit.observations.courses(sorted((a, b) for a, b in timed if a and b))
        return events, courses

    def _count(self, event: TrailEvent, courses: Mapping[tuple[str, str], Course]) -> None:
        self._after = event.id
        self._meters.trail.labels(event.kind).inc()
        if event.kind in OUTCOMES and event.target:
            self._meters.outcomes.labels(event.kind).inc()
        course = courses.get((event.campaign or "", event.target or ""))
        if course is None:
            return
        begun = {
            VERIFIED: ((self._meters.remediation, course.published_at), (self._meters.deployment, course.opened_at)),
            PERMITTED: ((self._meters.permit, course.asked_at),),
            FELL_BACK: ((self._meters.rollback, course.permitted_at),),
        }
        for meter, at in begun.get(event.kind, ()):
            if at is not None and at <= event.at:  # an ask may have come again meanwhile
                meter.observe(event.at - at)
