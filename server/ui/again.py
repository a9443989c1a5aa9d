"""Trying failed targets again: the file of a campaign for those that failed in another one.

They don't go back to waiting in their own campaign: its gate was judged by their failure, which stays what it was. The new one
has gates, approvals and a name of its own.
"""

from server.errors import NotFoundError
from server.planner.policy import READY_MADE
from server.planner.states import FAILURES
from server.planner.words import AssignmentState
from server.ports import Unit
from server.ports.querying import All, Op, Query, Term, Value, one
from server.ui.bulk import all_that_fit, file_for, free_name

TRIED_AGAIN = tuple(state for state in AssignmentState if state in FAILURES)
USUAL = "standard"


def file_again(unit: Unit, campaign: str) -> str:
    """The campaign file that brings the same release once more to those of a campaign that failed, and that no other campaign has
    taken since, under the same strategy where that is a ready-made one.

    Raises `NotFoundError`, and `RefusedError` (`nothing-selected`, `too-large`)."""
    view = unit.campaigns.view(campaign)
    if view is None:
        raise NotFoundError(f"There is no campaign {campaign}.")
    none = f"No target of {view.name} has failed that isn't in another campaign by now."
    found = all_that_fit(unit, failed_of(view.row.id), none)
    strategy, release = view.row.strategy.name, view.row.release
    return file_for(
        release.product,
        release.version,
        found,
        name=free_name(f"{view.name}-again", {row.name for row in unit.campaigns.list()}),
        strategy=strategy if strategy in READY_MADE else USUAL,
    )


def failed_of(campaign: str) -> Query:
    """Who failed in it and belongs to it still."""
    failed = Term(field="state", op=Op.IS, values=tuple(Value(text=state) for state in TRIED_AGAIN))
    return All(parts=(one("campaign", campaign), failed))
