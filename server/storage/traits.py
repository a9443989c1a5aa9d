"""What targets have when a campaign is made, for the strata and sites of its gates.

Few targets differ, so those that have the same share one mapping: a million of them then need no million mappings.
"""

from collections.abc import Mapping, Sequence
from sys import intern

from sqlalchemy import ColumnElement, Connection, select

from server.storage.tables import TARGET, TARGET_LABEL

HARDWARE, VERSION, UNKNOWN = "hardware", "version", "unknown"


def of(db: Connection, conditions: Sequence[ColumnElement[bool]], names: Sequence[str]) -> Mapping[str, dict[str, str]]:
    """By target, `hardware` and `version` (as far as `names` has them) and its labels of these names."""
    labels = {name: _labels(db, conditions, name) for name in names if name not in (HARDWARE, VERSION)}
    shared: dict[tuple[str | None, ...], dict[str, str]] = {}
    found: dict[str, dict[str, str]] = {}
    for target, hardware, version in db.execute(
        select(TARGET.c.id, TARGET.c.hardware, TARGET.c.running_version).where(*conditions)
    ):
        own = {HARDWARE: hardware, VERSION: version or UNKNOWN}
        values = tuple(own[name] if name in own else labels[name].get(target) for name in names)
        if values not in shared:
            shared[values] = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        found[target] = shared[values]
    return found


def _labels(db: Connection, conditions: Sequence[ColumnElement[bool]], name: str) -> dict[str, str]:
    """Of the targets that have a label of this name, its value."""
    statement = (
        select(TARGET_LABEL.c.target, TARGET_LABEL.c.value)
        .join(TARGET, TARGET.c.id == TARGET_LABEL.c.target)
        .where(TARGET_LABEL.c.name == name, *conditions)
    )
    return {target: intern(value) for target, value in db.execute(statement)}
