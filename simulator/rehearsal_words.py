"""What came out of a rehearsal, in sentences for a terminal."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from rich.filesize import decimal

from server.campaigns.rehearsal import Band, Rehearsal, basis_lines
from simulator.rehearsal import MOST_MISSED

SHOWN = 8
"""So many sites and targets are named; `--json` has more."""


def lines(found: Rehearsal, begins: float, there: float | None = None) -> Iterator[str]:
    """All of it. `there`: how often targets were taken to be there; None when the server said what it had learned."""
    of = f" of {found.targets}" if found.sampled != found.targets else ""
    played = ", of those that were played" if of else ""
    yield f"{found.replicas} runs over {found.sampled}{of} targets."
    if found.stopped:
        yield f"In {found.stopped:.0%} of them a gate stops the release, though it has no defect; what follows is of the others."
    yield f"The last that comes is verified by {_when(found.done_s, begins)}."
    if not found.is_stable and found.done_s.high is not None:
        yield f"With more runs the latter may move to {_moment(found.done_s.high, begins)}."
    for one in found.cohorts:
        if one.size and one.decided_s.p50 is not None:
            yield f"Cohort {one.name} ({one.size}) is decided by {_when(one.decided_s, begins)}."
    if found.unreached.p50:
        yield f"Not reached before the order expires: {found.unreached.p50:.0f} (even chance)."
    if found.missed:
        named = ", ".join(f"{one.target} {one.share:.0%}" for one in found.missed[:SHOWN])
        yield f"Missed most often over all its days{played}, in so many of the runs ({MOST_MISSED} are named at most): {named}."
    if found.site_bytes:
        named = ", ".join(f"{site or 'no site'} {decimal(size)}" for site, size in found.busiest[:SHOWN])
        yield f"Downloads most, without deltas{played}: {named}."
    bad_on = f" of {found.defect_on}" if found.defect_on else ""
    yield f"A release that fails its health check on a share of the devices{bad_on} harms, before the campaign stops:"
    for blast in found.blast:
        numbers = f"{blast.harmed.p50 or 0:.0f} (even chance), {blast.harmed.p90 or 0:.0f} (nine of ten)"
        given = blast.admitted
        of = (
            f", of {given.p50:.0f} and {given.p90:.0f} that had a permit by then"
            if given and given.p50 and given.p90
            else ""
        )
        yield f"  {blast.rate:.0%} bad: {numbers}{of}; stopped in {blast.stopped:.0%} of the runs"
    if found.binds:
        said = ", ".join(f"{kind} {share:.0%}" for kind, share in found.holds_up if share >= 0.005)
        yield f"What asks were told to wait for: {said}."
    yield _granted(found, there)


def end_of(found: Rehearsal, begins: float) -> str:
    """When it is through, for a progress bar."""
    return f"{_moment(found.done_s.p50, begins)}, nine of ten {_moment(found.done_s.p90, begins)}"


def _granted(found: Rehearsal, there: float | None) -> str:
    known = "" if there is None else f"each target is there {there:.0%} of the time, "
    if found.basis is None:
        said = f"Taken for granted: {known}links are good, nothing fails by itself, and people answer at once."
        return said if there is None else f"{said} Without --there it goes by what the server has learned of that."
    return " ".join(basis_lines(found.basis))


def _when(band: Band, begins: float) -> str:
    early, likely, late = (_moment(after_s, begins) for after_s in (band.p10, band.p50, band.p90))
    return f"{likely} (even chance), {late} (nine of ten), {early} at the earliest (one of ten)"


def _moment(after_s: float | None, begins: float) -> str:
    if after_s is None:
        return "never"
    return (datetime.fromtimestamp(begins, UTC) + timedelta(seconds=after_s)).strftime("%a %Y-%m-%d %H:%M UTC")
