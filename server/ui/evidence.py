"""Gates drawn: what each is judged by, as plain values that templates draw.

A row is one stratum (of a `metrics` gate: one metric in one stratum): its interval, its point estimate and the threshold on one
scale, which is long enough to tell them apart and no longer. An interval that reaches beyond the scale is drawn open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.planner.gate_words import share
from server.planner.gates import evidence
from server.planner.rows import CohortRow
from server.planner.strategy import CohortPolicy
from server.planner.words import CohortState, GateVerdict
from server.ui.pictures import Segment, stacked
from server.ui.wording import plural

TIMES_BOUND = 4.0
"""The scale reaches at least so many times the threshold."""
ROOM = 1.25
MAX_ROWS = 24
VERDICT_TONES = {GateVerdict.PASS: "verified", GateVerdict.FAIL: "bad", GateVerdict.INSUFFICIENT: "waiting"}
VERDICT_WORDS = {GateVerdict.PASS: "passes", GateVerdict.FAIL: "fails", GateVerdict.INSUFFICIENT: "not enough yet"}
GATE_TITLES = {
    "all": "Every target must verify",
    "share": "Share that may fail",
    "rate": "Failure rate",
    "metrics": "Metrics beside controls",
    "sli": "Service level",
    "external": "Somebody’s word",
}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One stratum on the scale, in percent of its length. `point` None: nothing is known. `missing`: what it lacks, in words."""

    name: str
    tone: str
    start: float
    width: float
    is_open: bool
    point: float | None
    bound: float
    numbers: str
    missing: str

    @property
    def says(self) -> str:
        """The picture in words."""
        return f"{self.name}: {self.numbers}{f'; {self.missing}' if self.missing else ''}"


@dataclass(frozen=True, kw_only=True)
class GatePicture:
    """One gate of a cohort. `rows` for what is tested by strata, `segments` for what is counted; `missing`: how many more must
    verify. `asks`: an external gate that waits for a person's word."""

    kind: str
    name: str
    title: str
    verdict: str
    tone: str
    text: str
    rows: tuple[Interval, ...] = ()
    more: int = 0
    bound: str = ""
    top: str = ""
    segments: tuple[Segment, ...] = ()
    missing: int = 0
    asks: bool = False


def gate_pictures(policies: Sequence[CohortPolicy], cohort: CohortRow, at: float) -> tuple[GatePicture, ...]:
    """The gates of a cohort as they were judged, or as they stand at time `at`; none of one that isn't open yet, or of `late`."""
    if cohort.state is CohortState.CLOSED or cohort.index >= len(policies):
        return ()
    found = cohort.evidence or evidence(policies[cohort.index], cohort, at)
    return tuple(_gate(one, is_open=cohort.state is CohortState.OPEN) for one in found)


def _gate(found: Mapping[str, Any], *, is_open: bool) -> GatePicture:
    kind, verdict = str(found["kind"]), GateVerdict(found["verdict"])
    strata = () if found.get("judged_by") == "all" else tuple(found.get("strata", ()))
    top = _top(found["bound"], strata) if strata else 1.0
    return GatePicture(
        kind=kind,
        name=str(found.get("name", "")),
        title=GATE_TITLES.get(kind, kind),
        verdict=VERDICT_WORDS[verdict],
        tone=VERDICT_TONES[verdict],
        text=str(found["text"]),
        rows=tuple(_interval(row, found["bound"], top) for row in _worst_first(strata)[:MAX_ROWS]),
        more=max(0, len(strata) - MAX_ROWS),
        bound=share(found["bound"]) if strata else "",
        top=share(top),
        segments=() if strata else _counted(found),
        missing=max(0, int(found.get("missing", 0))),
        asks=is_open and kind == "external" and verdict is GateVerdict.INSUFFICIENT,
    )


def _worst_first(strata: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(strata, key=lambda row: (-row["lower"], -row["upper"], row["name"]))


def _top(bound: float, strata: Sequence[Mapping[str, Any]]) -> float:
    """The end of the scale: room for the threshold and for what is known, not for what merely isn't excluded."""
    known = max((max(row["lower"], _point(row) or 0.0) for row in strata), default=0.0)
    return min(1.0, max(TIMES_BOUND * bound, ROOM * known))


def _point(row: Mapping[str, Any]) -> float | None:
    """What was seen: the mean over sites of what failed, as the interval has it, or the share that is worse than its control."""
    found: float | None = row["worse"] if "metric" in row else row.get("seen")
    return found


def _interval(row: Mapping[str, Any], bound: float, top: float) -> Interval:
    lower, upper, point = row["lower"], row["upper"], _point(row)
    start, end = 100 * min(lower, top) / top, 100 * min(upper, top) / top
    tone = "bad" if lower > bound else "waiting" if row["missing"] else "verified"
    return Interval(
        name=f"{row['name']}, {row['metric']}" if "metric" in row else str(row["name"]),
        tone=tone,
        start=round(start, 2),
        width=round(max(end - start, 0.4), 2),
        is_open=upper > top,
        point=None if point is None else round(100 * min(point, top) / top, 2),
        bound=round(100 * bound / top, 2),
        numbers=_numbers(row, point),
        missing=_missing(row, is_bad=tone == "bad"),
    )


def _numbers(row: Mapping[str, Any], point: float | None) -> str:
    between = f"between {share(row['lower'])} and {share(row['upper'])}"
    if "metric" in row:
        seen = "no pair compared" if point is None else f"{share(point)} of {plural(row['effective_n'], 'pair')} worse"
        return f"{seen}, {between}"
    seen = "nothing decided" if not row["n"] else f"{row['failed']:,} of {row['n']:,} failed"
    return f"{seen}, {between}"


def _missing(row: Mapping[str, Any], *, is_bad: bool) -> str:
    if is_bad or not row["missing"]:
        return ""
    if row.get("judged_by") == "all":
        return "too small for the test: all must verify"
    what = "more pair" if "metric" in row else "more success"
    return f"about {_plural(row['missing'], what)} needed"


def _plural(number: int, noun: str) -> str:
    return plural(number, noun).replace("successs", "successes")


def _counted(found: Mapping[str, Any]) -> tuple[Segment, ...]:
    if "verified" not in found:
        return ()
    return stacked(
        [
            ("verified", "verified", found["verified"]),
            ("bad", "failed", found["failed"]),
            ("waiting", "undecided", found["undecided"]),
        ]
    )
