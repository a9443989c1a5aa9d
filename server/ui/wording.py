"""How states look and read: one tone (colour and shape) and one short text for each, the same on every page."""

from collections.abc import Sequence
from datetime import UTC, datetime

from server.campaigns.savings import Savings
from server.planner.forecast import Forecast
from server.planner.rows import CampaignRow, CohortRow
from server.planner.words import AssignmentState as A
from server.planner.words import CampaignState, CohortState, Verb

TONES: dict[A, str] = {
    A.PLANNED: "waiting",
    A.ORDERED: "moving",
    A.DOWNLOADING: "moving",
    A.STAGED: "moving",
    A.ASKING: "moving",
    A.ACTIVATING: "trial",
    A.TRIAL: "trial",
    A.COMMITTED: "committed",
    A.VERIFIED: "verified",
    A.DEFERRED: "aside",
    A.CANCELLED: "aside",
    A.SKIPPED: "aside",
    A.SUPERSEDED: "aside",
    A.EXPIRED: "aside",
    A.ROLLED_BACK: "aside",
    A.FELL_BACK: "bad",
    A.FAILED: "bad",
    A.REFUSED: "bad",
    A.MISSING: "bad",
    A.REGRESSED: "bad",
    A.DRIFTED: "bad",
}
TONE_ORDER = ("verified", "committed", "trial", "moving", "waiting", "aside", "bad")
TONE_TEXT = {
    "verified": "verified",
    "committed": "committed, proving itself",
    "trial": "restarting on trial",
    "moving": "fetching and staging",
    "waiting": "waiting its turn",
}
CAMPAIGN_TONES: dict[CampaignState, str] = {
    CampaignState.DRAFT: "waiting",
    CampaignState.AWAITING_APPROVAL: "attention",
    CampaignState.SCHEDULED: "waiting",
    CampaignState.RUNNING: "moving",
    CampaignState.PAUSED: "attention",
    CampaignState.WATCHING: "committed",
    CampaignState.COMPLETED: "verified",
    CampaignState.ABORTED: "aside",
    CampaignState.ROLLING_BACK: "attention",
    CampaignState.ROLLED_BACK: "aside",
}
OVER = (CampaignState.COMPLETED, CampaignState.ABORTED, CampaignState.ROLLED_BACK)
STOPPED = (CampaignState.PAUSED, CampaignState.ABORTED, CampaignState.ROLLING_BACK, CampaignState.ROLLED_BACK)
GATE_WORDS: dict[CohortState, str] = {
    CohortState.CLOSED: "not open yet",
    CohortState.OPEN: "open",
    CohortState.PASSED: "gate passed",
    CohortState.FAILED: "gate failed",
    CohortState.ROLLED_BACK: "rolled back",
}
VERB_WORDS: dict[Verb, str] = {
    Verb.START: "Start",
    Verb.APPROVE: "Approve",
    Verb.REJECT: "Reject",
    Verb.PAUSE: "Pause",
    Verb.RESUME: "Resume",
    Verb.ABORT: "Abort",
    Verb.ROLLBACK: "Roll back",
}
STANDSTILL = (A.PLANNED, A.ORDERED, A.STAGED, A.ASKING, A.DEFERRED)
"""Where a target waits for something that its page can name."""
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def spoken(state: str | None) -> str:
    """A state's name for people."""
    return "no order" if state is None else str(state).replace("_", " ")


def ago(at: float | None, now: float) -> str:
    """How long ago, in the largest fitting unit."""
    if at is None:
        return "never"
    seconds = max(0, int(now - at))
    if seconds < 5:
        return "just now"
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    whole = max(0, int(seconds))
    for size, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if whole >= 2 * size or (whole >= size and size == _MINUTE):
            return f"{whole // size} {name}"
    return f"{whole} s"


def stamp(at: float) -> str:
    """A time as ISO 8601, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def clock_time(at: float) -> str:
    """Day and time of day, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M:%S")


def clock_times(since: float, until: float) -> str:
    """From when to when, in words: as one time where both fall into the same second."""
    first, last = clock_time(since), clock_time(until)
    date, _, hour = last.rpartition(" ")
    return first if first == last else f"{first} – {hour if first.startswith(date) else last}"


def day(at: float) -> str:
    """The day, UTC, as ISO 8601."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def size(length: int) -> str:
    """A length in bytes for people (powers of 1024)."""
    value = float(length)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{length} B"


def fact(name: str, value: str) -> str:
    """A label's value for people: `…free-bytes` in the unit that fits."""
    is_size = name.endswith("free-bytes") and value.isascii() and value.isdigit()
    return size(int(value)) if is_size else value


def clause(text: str) -> str:
    """A sentence as the end of another one: no full stop."""
    return text.rstrip(". ")


def plural(number: int, noun: str) -> str:
    """`1 target`, `2 targets`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def campaign_sentence(row: CampaignRow, cohorts: Sequence[CohortRow]) -> str:
    """Where a campaign stands and what it waits for, in one sentence."""
    if row.state is CampaignState.DRAFT:
        total = sum(cohort.size for cohort in cohorts)
        return f"A draft for {plural(total, 'target')}; nothing happens until somebody starts it."
    if row.state is CampaignState.SCHEDULED and row.start_at is not None:
        return f"Starts by itself on {clock_time(row.start_at)} UTC."
    if row.state is CampaignState.RUNNING and row.deltas_until is not None:
        return (
            f"Waiting for deltas, until {clock_time(row.deltas_until)} UTC at the latest; then the first cohort opens."
        )
    if row.state in (CampaignState.RUNNING, CampaignState.WATCHING):
        open_now = next((cohort for cohort in cohorts if cohort.state is CohortState.OPEN), None)
        return cohort_sentence(open_now) if open_now else "Every cohort is decided; late arrivals are still taken in."
    if row.state is CampaignState.COMPLETED:
        return f"Completed: {plural(_verified(cohorts), 'target')} verified on {row.release.version}."
    text = row.reason or "No reason was given"
    return f"{spoken(row.state).capitalize()}: {text.rstrip('.')}."


def forecast_sentence(found: Forecast, now: float) -> str:
    """When a campaign will be through; of a moment that has passed, that it was forecast for then."""
    likely, latest = (f"{clock_time(at)} UTC" for at in (found.done.p50, found.done.p90))
    if found.done.p90 <= now:
        return f"It was forecast for {likely} as likely as not, and for {latest} in nine of ten runs; both have passed."
    if found.done.p50 <= now:
        return f"It was forecast for {likely} as likely as not; in nine of ten runs it is through by {latest}."
    return f"Forecast: the last target that comes is verified by {likely} as likely as not, by {latest} in nine of ten runs."


def savings_sentence(sums: Savings) -> str:
    """What deltas save a campaign, as far as they are made."""
    if not sums.needed:
        return f"No deltas: {size(sums.full_bytes)} to download."
    made = f"{sums.made} of {plural(sums.needed, 'delta')} made"
    if sums.refused:
        made += f", {sums.refused} not to be had"
    return f"{made}: {size(sums.expected_bytes)} to download instead of {size(sums.full_bytes)}."


def cohort_sentence(cohort: CohortRow, *, named: bool = True, over: bool = False) -> str:
    """What a cohort's gate says, in one sentence; `named`: with the cohort's name before it; `over`: nothing more comes."""
    verified = cohort.counts.get(A.VERIFIED, 0)
    if over and cohort.state is CohortState.OPEN:
        stood = ", ".join(f"{number:,} {spoken(state)}" for state, number in cohort.counts.items() if number)
        text = f"Its campaign ended before it was decided; its targets: {stood}."
    elif cohort.verdict_text:
        text = cohort.verdict_text
    elif cohort.state is CohortState.CLOSED:
        text = (
            "Never opened: none of its targets was touched."
            if over
            else "Opens when the cohort before it has passed."
            if cohort.index
            else "Opens when the campaign starts."
        )
    else:
        text = f"{verified} of {cohort.size} verified, {cohort.attempted} attempted."
    return f"{cohort.name}: {text}" if named else text


def gate_words(cohort: CohortRow, *, over: bool) -> str:
    """A cohort's gate in two or three words."""
    if over and cohort.state in (CohortState.CLOSED, CohortState.OPEN):
        return "never opened" if cohort.state is CohortState.CLOSED else "not decided"
    return GATE_WORDS[cohort.state]


def campaign_tone(row: CampaignRow, cohorts: Sequence[CohortRow]) -> str:
    """The tone of a campaign's state: one that its gate stopped is no quiet matter."""
    if row.state in STOPPED and any(cohort.state is CohortState.FAILED for cohort in cohorts):
        return "bad"
    return CAMPAIGN_TONES[row.state]


def _verified(cohorts: Sequence[CohortRow]) -> int:
    return sum(cohort.counts.get(A.VERIFIED, 0) for cohort in cohorts)
