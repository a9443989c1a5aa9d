"""Gates that wait for a word from outside: a service level indicator, or a verdict of a person or another system.

Rules
- A reading counts only while somebody in the cohort runs the release and is verified: before that it says nothing about it.
- A reading that could not be had is no good one: after a gap of `GAP` readings the time of good readings begins anew.
- A word that was given stays; a later one replaces it, and a passed cohort may still be failed.
"""

from msgspec.structs import replace

from server.planner.gate_rows import GateInput
from server.planner.gate_words import Finding
from server.planner.rows import CohortRow
from server.planner.strategy import GatePolicy
from server.planner.words import AssignmentState, GateVerdict

GAP = 3


def judge_sli(policy: GatePolicy, cohort: CohortRow, _at: float = 0.0) -> Finding:
    """The verdict on what was read of an indicator."""
    told = cohort.inputs.get(policy.name)
    if told is None or told.value is None:
        why = f" ({told.reason})" if told and told.reason else ""
        return Finding(verdict=GateVerdict.INSUFFICIENT, text=f"{policy.name} has not been read yet{why}.")
    numbers = f"{policy.name} is {told.value:g}, at most {policy.limit:g} is allowed"
    data = {"value": told.value, "limit": policy.limit, "read_at": told.at}
    if told.bad_since is not None and told.at - told.bad_since >= policy.bear_s:
        return Finding(verdict=GateVerdict.FAIL, text=f"{numbers}.", data=data)
    held_s = 0.0 if told.good_since is None else told.at - told.good_since
    if told.good_since is None or held_s < policy.for_s:
        missing_s = policy.for_s - held_s
        text = f"{numbers}; it must stay so for {missing_s:g} s more."
        return Finding(verdict=GateVerdict.INSUFFICIENT, text=text, data={**data, "missing_s": missing_s})
    return Finding(verdict=GateVerdict.PASS, text=f"{numbers}, and was for {held_s:g} s.", data=data)


def judge_external(policy: GatePolicy, cohort: CohortRow, _at: float = 0.0) -> Finding:
    """The verdict that was given from outside."""
    told = cohort.inputs.get(policy.name)
    if told is None:
        return Finding(verdict=GateVerdict.INSUFFICIENT, text=f"Waiting for {policy.name} to say pass or fail.")
    why = f": {told.reason}" if told.reason else ""
    verdict = GateVerdict(told.verdict)
    data = {"by": told.by, "reason": told.reason, "at": told.at}
    return Finding(verdict=verdict, text=f"{policy.name} says {verdict}, by {told.by}{why}.", data=data)


def read(policy: GatePolicy, cohort: CohortRow, value: float | None, reason: str, at: float) -> GateInput | None:
    """What a reading leaves of an indicator; None when it says nothing (yet)."""
    if not cohort.counts.get(AssignmentState.VERIFIED, 0):
        return None
    told = cohort.inputs.get(policy.name) or GateInput(at=at)
    if value is None:
        return replace(told, reason=reason)
    gap = at - told.at > GAP * policy.every_s
    good_since = None if gap else told.good_since
    if value <= policy.limit:
        return GateInput(at=at, value=value, good_since=at if good_since is None else good_since)
    return GateInput(at=at, value=value, bad_since=at if told.bad_since is None or gap else told.bad_since)
