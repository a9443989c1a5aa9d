"""What the targets of a campaign have to install, counted; and which deltas for that are still to be made."""

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, RowMapping, Select, String, and_, cast, delete, exists, func, insert, select, update

from server.planner.words import AssignmentState, CampaignState
from server.ports import DeltaNeed, Leg, Origin
from server.storage.tables import ASSIGNMENT, CAMPAIGN, DELTA, LEG, TARGET

_GOING = (CampaignState.RUNNING, CampaignState.PAUSED, CampaignState.WATCHING)
_WITH_DELTA = LEG.outerjoin(
    DELTA, and_(DELTA.c.source_sha256 == LEG.c.source_sha256, DELTA.c.target_sha256 == LEG.c.target_sha256)
)


def origins(db: Connection, campaign: str) -> Mapping[Origin, int]:
    """From where the campaign's targets that are still planned set out, and how many from each."""
    capabilities = cast(TARGET.c.capabilities, String)
    runs = (TARGET.c.hardware, TARGET.c.running_sha256, TARGET.c.running_product, TARGET.c.running_counter)
    statement = (
        select(*runs, capabilities, func.count())
        .select_from(ASSIGNMENT.join(TARGET, TARGET.c.id == ASSIGNMENT.c.target))
        .where(ASSIGNMENT.c.campaign == campaign, ASSIGNMENT.c.state == str(AssignmentState.PLANNED))
        .group_by(*runs, capabilities)
    )
    found: dict[Origin, int] = {}
    for hardware, sha256, product, counter, listed, number in db.execute(statement):
        origin = Origin(
            hardware=hardware,
            sha256=sha256,
            product=product,
            counter=counter,
            capabilities=tuple(sorted(json.loads(listed))),
        )
        found[origin] = found.get(origin, 0) + number
    return found


def put(db: Connection, campaign: str, rows: Sequence[Leg]) -> None:
    """Replace the campaign's legs."""
    db.execute(delete(LEG).where(LEG.c.campaign == campaign))
    values = [{column.name: getattr(leg, column.name) for column in LEG.c} | {"need": str(leg.need)} for leg in rows]
    if values:
        db.execute(insert(LEG), values)


def of(db: Connection, campaign: str) -> tuple[Leg, ...]:
    """The campaign's legs by rank, with the deltas that are there."""
    rows = db.execute(_legs().where(LEG.c.campaign == campaign).order_by(LEG.c.rank)).mappings()
    return tuple(_leg(row) for row in rows)


def settle(db: Connection, leg: Leg, need: DeltaNeed, reason: str) -> None:
    """Note what became of the delta of one leg."""
    which = (LEG.c.campaign == leg.campaign, LEG.c.rank == leg.rank)
    db.execute(update(LEG).where(*which).values(need=str(need), reason=reason[:1000]))


def wanted(db: Connection) -> Leg | None:
    """The next delta to make: the first that is wanted of the oldest campaign that is not over."""
    going = CAMPAIGN.c.state.in_([str(state) for state in _GOING])
    statement = (
        _legs()
        .join(CAMPAIGN, CAMPAIGN.c.id == LEG.c.campaign)
        .where(LEG.c.need == str(DeltaNeed.WANTED), going)
        .order_by(CAMPAIGN.c.created_at, LEG.c.campaign, LEG.c.rank)
        .limit(1)
    )
    row = db.execute(statement).mappings().first()
    return None if row is None else _leg(row)


def awaiting(db: Connection) -> Sequence[str]:
    """Campaigns that wait for deltas and want none any more."""
    going = CAMPAIGN.c.state.in_([str(state) for state in _GOING])
    open_ = exists().where(LEG.c.campaign == CAMPAIGN.c.id, LEG.c.need == str(DeltaNeed.WANTED))
    statement = select(CAMPAIGN.c.id).where(CAMPAIGN.c.deltas_until.is_not(None), going, ~open_)
    return db.execute(statement.order_by(CAMPAIGN.c.id)).scalars().all()


def _legs() -> Select[tuple[object, ...]]:
    return select(LEG, DELTA.c.length.label("delta_bytes")).select_from(_WITH_DELTA)


def _leg(row: RowMapping) -> Leg:
    return Leg(**{**row, "need": DeltaNeed(row["need"])})
