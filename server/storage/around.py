"""What a target stands among: the facts of a slice that no decision writes."""

from sqlalchemy import Connection, bindparam, select

from server.planner.model import TargetRow
from server.planner.surroundings import GroupSize, Surroundings
from server.storage.tables import GROUP_SIZE

_SIZES = select(GROUP_SIZE).where(GROUP_SIZE.c.key.in_(bindparam("keys", expanding=True))).order_by(GROUP_SIZE.c.key)


def load(db: Connection, target: TargetRow) -> Surroundings:
    """What the target's events look at."""
    sizes = [GroupSize(**row) for row in db.execute(_SIZES, {"keys": list(target.groups)}).mappings()]
    return Surroundings(sizes=tuple(sizes))
