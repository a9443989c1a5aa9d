"""The figures as a Markdown table, and its place in a document: between two markers, so that the words around it stay."""

from collections.abc import Sequence

from bench.result import Outcome, Point, Result, Skipped

BEGIN = "<!-- figures: begin (written by `make bench`) -->"
END = "<!-- figures: end -->"
_HEAD = "| figure | ours | peer or limit | its figure | ratio | of rounds | better |\n|---|--:|---|--:|--:|--:|---|"

_POINTS_HEAD = "| way | size | seconds | peak MiB |\n|---|--:|--:|--:|"


def table(outcomes: Sequence[Outcome]) -> str:
    """One row per figure, in order; a table of the ways to do one thing; and one line for each that was skipped."""
    rows = [_row(outcome) for outcome in outcomes if isinstance(outcome, Result)]
    skipped = [f"- `{one.name}` was skipped. {one.reason}" for one in outcomes if isinstance(one, Skipped)]
    points = [_point(one) for one in outcomes if isinstance(one, Point)]
    ways = ["", _POINTS_HEAD, *points] if points else []
    return "\n".join([_HEAD, *rows, *ways, *([""] if skipped else []), *skipped])


def between_markers(document: str, text: str) -> str:
    """The document with `text` in place of what is between its markers. Raises `ValueError` unless it has each once."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"The document needs one line {BEGIN} and after it one line {END}.")
    before, after = document.split(BEGIN)[0], document.split(END)[1]
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def figure(value: float) -> str:
    """A number with three digits that mean something, and none invented."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _point(point: Point) -> str:
    size = f"{figure(point.size)} {point.unit}"
    return f"| `{point.name}` {point.way} | {size} | {figure(point.seconds)} | {figure(point.peak_mib)} |"


def _row(result: Result) -> str:
    spread = f"{figure(result.ratio_low)} … {figure(result.ratio_high)} of {result.rounds}"
    cells = (
        f"`{result.name}`",
        f"{figure(result.value)} {result.unit}",
        result.peer,
        figure(result.peer_value),
        f"**{figure(result.ratio)}**",
        spread,
        result.better,
    )
    return f"| {' | '.join(cells)} |"
