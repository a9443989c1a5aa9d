"""Pictures of cohorts and versions as plain values that templates draw.

Up to `MAX_CELLS` targets get a cell each; a larger campaign is drawn as bars, whose size does not grow with the fleet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.planner.rows import AssignmentRow, CohortRow
from server.planner.words import AssignmentState
from server.ports.querying import quoted
from server.ui.wording import TONE_ORDER, TONE_TEXT, TONES, cohort_sentence, gate_words, spoken

MAX_CELLS = 2000
ROOMY_CELLS = 300
MAX_VERSIONS = 7
BY_STATE = ("aside", "bad")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One target: its tone, what a pointer over it says, and where it leads (None: nowhere)."""

    tone: str
    title: str
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a bar: where it begins and how long it is, in percent of the bar."""

    tone: str
    label: str
    number: int
    start: float
    width: float


@dataclass(frozen=True, kw_only=True)
class CohortPicture:
    """A cohort drawn: `cells` (`roomy` ones when there are few), or `segments` when it is too large for them, with a
    sentence about its gate. `segments` are also the legend. `over`: its campaign has ended."""

    cohort: CohortRow
    cells: tuple[Cell, ...]
    segments: tuple[Segment, ...]
    roomy: bool
    over: bool
    gate: str
    sentence: str


def picture(
    cohort: CohortRow, *, total: int, over: bool = False, assignments: Sequence[AssignmentRow] | None = None
) -> CohortPicture:
    """Draw a cohort of a campaign with `total` targets; with `assignments` (by rank) each cell keeps its place."""
    segments = stacked(_parts(cohort.counts, over=over))
    cells: tuple[Cell, ...] = ()
    if total <= MAX_CELLS:
        cells = tuple(_named(row) for row in assignments) if assignments is not None else _unnamed(segments)
    return CohortPicture(
        cohort=cohort,
        cells=cells,
        segments=segments,
        roomy=total <= ROOMY_CELLS,
        over=over,
        gate=gate_words(cohort, over=over),
        sentence=cohort_sentence(cohort, named=False, over=over),
    )


def stacked(parts: Sequence[tuple[str, str, int]]) -> tuple[Segment, ...]:
    """Lay (tone, label, number) parts end to end; empty ones are left out."""
    total = sum(number for _, _, number in parts) or 1
    out: list[Segment] = []
    start = 0.0
    for tone, label, number in parts:
        if number > 0:
            width = 100 * number / total
            out.append(Segment(tone=tone, label=label, number=number, start=round(start, 3), width=round(width, 3)))
            start += width
    return tuple(out)


def versions_bar(versions: Mapping[str, int]) -> tuple[Segment, ...]:
    """Versions the fleet runs, most common first; the rare ones are taken together."""
    ordered = sorted(versions.items(), key=lambda item: (item[0] == "unknown", -item[1], item[0]))
    shown, rest = ordered[:MAX_VERSIONS], ordered[MAX_VERSIONS:]
    parts = [(_version_tone(index, name), name, number) for index, (name, number) in enumerate(shown)]
    if rest:
        parts.append(("v-rest", f"{len(rest)} other versions", sum(number for _, number in rest)))
    return stacked(parts)


def _version_tone(index: int, name: str) -> str:
    return "v-none" if name == "unknown" else f"v-{index}"


def _parts(counts: Mapping[AssignmentState, int], *, over: bool) -> list[tuple[str, str, int]]:
    """Tones of what is on its way; what has left the way is named by its state."""
    parts: list[tuple[str, str, int]] = []
    for tone in TONE_ORDER:
        here = [(state, number) for state, number in counts.items() if TONES[state] == tone and number]
        if tone in BY_STATE:
            parts += [(tone, spoken(state), number) for state, number in here]
        else:
            text = "never ordered" if over and tone == "waiting" else TONE_TEXT[tone]
            parts.append((tone, text, sum(number for _, number in here)))
    return parts


def _named(row: AssignmentRow) -> Cell:
    return Cell(tone=TONES[row.state], title=f"{row.target}: {spoken(row.state)}", target=row.target)


def _unnamed(segments: Sequence[Segment]) -> tuple[Cell, ...]:
    return tuple(Cell(tone=part.tone, title=part.label) for part in segments for _ in range(part.number))


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A bar: why so many failed, `width` in percent of the most frequent reason. `query`: of the fleet, which
    has those targets; empty where one doesn't."""

    label: str
    state: str
    number: int
    width: float
    query: str = ""


MAX_REASONS = 8


def reason_bars(reasons: Mapping[tuple[str, str], int], campaign: str = "") -> tuple[Reason, ...]:
    """Why targets of a campaign failed, by (state, kind of reason): the most frequent first, the rare ones together."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown, rest = ordered[:MAX_REASONS], ordered[MAX_REASONS:]
    others = sum(number for _, number in rest)
    most = max(max((number for _, number in shown), default=1), others)
    bars = [
        Reason(
            label="no reason given" if kind == "none" else kind,
            state=spoken(state),
            number=number,
            width=round(100 * number / most, 2),
            query=f"campaign:{quoted(campaign)} and state:{state} and reason:{quoted(kind)}",
        )
        for (state, kind), number in shown
    ]
    if rest:
        label = f"{len(rest)} other reasons"
        bars.append(Reason(label=label, state="", number=others, width=round(100 * others / most, 2)))
    return tuple(bars)
