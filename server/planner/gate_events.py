"""What is said about a cohort's gates from outside: a verdict, a reading, a comparison of metrics.

Rules
- A verdict is refused for a cohort that isn't open or passed, or has no such gate; whoever gave it is on the trail.
- A reading or a comparison that nobody waits for (any more) changes nothing.
"""

from msgspec.structs import replace

from firmware.errors import RefusedError
from server.errors import NotFoundError
from server.planner import outside_gates, pair_gate, progress, strata
from server.planner.events import Compared, GateAnswered, SliRead
from server.planner.gate_rows import BlockRow, GateInput
from server.planner.ledger import Ledger
from server.planner.rows import CohortRow
from server.planner.states import LIVE, TransitionError
from server.planner.strategy import GatePolicy
from server.planner.words import AssignmentState, CohortState, GateVerdict

_JUDGED = (CohortState.OPEN, CohortState.PASSED)


def answered(ledger: Ledger, event: GateAnswered) -> None:
    """Keep a verdict on an external gate; raises `NotFoundError`, `TransitionError` (`wrong-state`) or `RefusedError`
    (`no-such-gate`)."""
    cohort = next((row for row in ledger.cohorts.values() if row.name == event.cohort), None)
    if cohort is None:
        raise NotFoundError(f"The campaign has no cohort {event.cohort}.")
    gate = _external(ledger, cohort, event.name)
    if ledger.campaign.state not in LIVE or cohort.state not in _JUDGED:
        state = ledger.campaign.state.replace("_", " ")
        text = f"Cohort {cohort.name} is {cohort.state} and the campaign {state}: its gates aren't judged now."
        raise TransitionError("wrong-state", text)
    verdict = GateVerdict.PASS if event.verdict is GateVerdict.PASS else GateVerdict.FAIL
    said = GateInput(at=event.at, verdict=str(verdict), by=event.by, reason=event.reason)
    ledger.set_cohort(cohort.index, inputs={**cohort.inputs, gate.name: said})
    why = f": {event.reason}" if event.reason else ""
    ledger.record("gate-answered", f"Gate {gate.name} of cohort {cohort.name}: {verdict}, by {event.by}{why}")
    progress.settle(ledger)


def sli_read(ledger: Ledger, event: SliRead) -> None:
    """Keep a reading of an indicator."""
    cohort = ledger.cohorts.get(event.cohort)
    if cohort is None or cohort.state is not CohortState.OPEN or ledger.campaign.state not in LIVE:
        return
    gates = ledger.campaign.strategy.cohorts[cohort.index].gates
    gate = next((gate for gate in gates if gate.kind == "sli" and gate.name == event.name), None)
    told = outside_gates.read(gate, cohort, event.value, event.reason, event.at) if gate else None
    if told is not None:
        ledger.set_cohort(cohort.index, inputs={**cohort.inputs, event.name: told})
        progress.settle(ledger)


def compared(ledger: Ledger, event: Compared) -> None:
    """Count a pair of a verified target and its control, once; the first of its site speaks for the site."""
    if not ledger.known or ledger.assignment.compared or ledger.assignment.state is not AssignmentState.VERIFIED:
        return
    ledger.set_assignment(compared=True)
    ledger.record("compared", _said(ledger, event), target=True)
    policies = ledger.campaign.strategy.cohorts
    if ledger.assignment.cohort < len(policies) and ledger.cohort.state in _JUDGED:
        _speak(ledger, event, policies[ledger.assignment.cohort].gates)
    progress.settle(ledger)


def _said(ledger: Ledger, event: Compared) -> str:
    told = [
        f"{name} by {'nothing that it told' if own is None else f'{own:+g}'}, beside {control:+g}"
        for name, (own, control) in sorted(event.changes.items())
    ]
    by = f", by {event.by}" if event.by else ""
    return f"Compared with {ledger.assignment.control}{by}: since before, {'; '.join(told)}."


def _speak(ledger: Ledger, event: Compared, gates: tuple[GatePolicy, ...]) -> None:
    gate = next((gate for gate in gates if gate.kind == "metrics"), None)
    index = ledger.assignment.cohort
    where = strata.place(ledger.campaign.strategy.cohorts[index], ledger.assignment)
    row = ledger.blocks.get((index, *where)) if where else None
    if gate is None or row is None:
        return
    for metric in gate.metrics:
        if metric.name in event.changes and metric.name not in row.spoken:
            row = _count(ledger, row, metric.name, pair_gate.half_points(metric, *event.changes[metric.name]))
    ledger.blocks[index, row.stratum, row.site] = row


def _count(ledger: Ledger, row: BlockRow, metric: str, half_points: int) -> BlockRow:
    known = ledger.cohorts[row.cohort].strata
    told = strata.spoken(known[row.stratum], metric, half_points)
    ledger.set_cohort(row.cohort, strata={**known, row.stratum: told})
    return replace(row, spoken=(*row.spoken, metric))


def _external(ledger: Ledger, cohort: CohortRow, name: str) -> GatePolicy:
    policies = ledger.campaign.strategy.cohorts
    gates = policies[cohort.index].gates if cohort.index < len(policies) else ()
    known = {gate.name: gate for gate in gates if gate.kind == "external"}
    if not name and len(known) == 1:
        return next(iter(known.values()))
    if name in known:
        return known[name]
    told = f"it has {', '.join(known)}: name one of them" if known else "it has none that waits for a word"
    raise RefusedError(
        "no-such-gate", f"Cohort {cohort.name} has no external gate {name or 'that is the only one'}; {told}."
    )
