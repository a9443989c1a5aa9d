"""Targets that are down without having been admitted: their word alone makes them count.

Rules
- Who says that its heartbeat fails is `unhealthy` until it says that it has recovered, or that it fell back to a known image.
- Who regressed counts as `regressed` until a later report shows it up on a known image without a fault.
- A target that is counted already keeps the reason for which it is.
"""

from firmware.protocol.words import AgentState, ReasonKind
from server.planner import budgets
from server.planner.events import Reported
from server.planner.ledger import Ledger
from server.planner.words import AssignmentState, TokenKind

_AT_REST = frozenset(AgentState) - {AgentState.ACTIVATING, AgentState.TRIAL, AgentState.FAILED, AgentState.REFUSED}


def uncount(ledger: Ledger, event: Reported) -> None:
    """Give back what the target holds for being unwell, if this report shows that it is well again."""
    is_up = event.running_sha256 is not None and event.state in _AT_REST
    if event.reason_kind == ReasonKind.HEALTH_RECOVERED or (is_up and event.state == AgentState.FELL_BACK):
        budgets.release_kinds(ledger, TokenKind.UNHEALTHY, TokenKind.REGRESSED)
    elif is_up and event.reason_kind == "none":
        budgets.release_kinds(ledger, TokenKind.REGRESSED)


def count(ledger: Ledger, event: Reported, before: AssignmentState | None) -> None:
    """Count a target that this report shows unwell; `before`: the state of its assignment, if it had one."""
    if event.reason_kind == ReasonKind.HEALTH_REGRESSED:
        budgets.count_unasked(ledger, TokenKind.UNHEALTHY)
    elif ledger.known and before is not ledger.assignment.state is AssignmentState.REGRESSED:
        budgets.count_unasked(ledger, TokenKind.REGRESSED)
