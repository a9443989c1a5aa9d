"""A selection as conditions on targets."""

from sqlalchemy import ColumnElement, and_, func, not_, or_

from server.planner.selection import Match, Selection
from server.storage.fleet import labelled
from server.storage.tables import TARGET


def selected(selection: Selection) -> list[ColumnElement[bool]]:
    """What a target must fulfil to be in it."""
    return [*_fits(selection), *(not_(and_(*_fits(match))) for match in selection.exclude)]


def _fits(match: Match) -> list[ColumnElement[bool]]:
    labels = [
        or_(*(labelled(name, one) for one in ((value,) if isinstance(value, str) else value)))
        for name, value in match.labels.items()
    ]
    # A target that never said what it runs has no version, and NULL would leave it out of what it isn't excluded from.
    runs = func.coalesce(TARGET.c.running_version, "")
    columns = [(TARGET.c.hardware, match.hardware), (runs, match.versions), (TARGET.c.id, match.targets)]
    return [*labels, *(column.in_(list(values)) for column, values in columns if values)]
