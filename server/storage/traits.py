"""What targets have when a campaign is made, for the strata and sites of its gates.

Few targets differ, so those that have the same share one mapping: a million of them then need no million mappings.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, select

from server.storage.tables import TARGET, TARGET_LABEL

HARDWARE, VERSION, UNKNOWN = "hardware", "version", "unknown"


def of(db: Connection, conditions: Sequence[ColumnElement[bool]], names: Sequence[str]) -> Mapping[str, dict[str, str]]:
    """By target, `hardware` and `version` (as far as `names` has them) and its labels of these names."""
    found: dict[str, dict[str, str]] = {}
    for target, hardware, version in db.execute(
        select(TARGET.c.id, TARGET.c.hardware, TARGET.c.running_version).where(*conditions)
    ):
        own = {HARDWARE: hardware, VERSION: version or UNKNOWN}
        found[target] = {name: own[name] for name in names if name in own}
    labels = [name for name in names if name not in (HARDWARE, VERSION)]
    told = (
        select(TARGET_LABEL.c.target, TARGET_LABEL.c.name, TARGET_LABEL.c.value)
        .join(TARGET, TARGET.c.id == TARGET_LABEL.c.target)
        .where(TARGET_LABEL.c.name.in_(labels), *conditions)
    )
    for target, name, value in db.execute(told) if labels else ():
        found[target][name] = value
    shared: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    return {target: shared.setdefault(tuple(sorted(own.items())), own) for target, own in found.items()}
