"""Other campaigns that want a target, or hold it. By the target's own few assignments."""

from sqlalchemy import Connection, RowMapping, bindparam, select

from firmware.protocol.words import Action
from server.planner.rows import CampaignRow, TargetRow
from server.planner.states import LIVE, WAITING
from server.planner.surroundings import Rival
from server.planner.words import AssignmentState
from server.storage.tables import ASSIGNMENT, CAMPAIGN

_OPEN = [str(state) for state in (AssignmentState.PLANNED, *WAITING)]
_RIVALS = (
    select(
        CAMPAIGN.c.id,
        CAMPAIGN.c.state.label("campaign_state"),
        CAMPAIGN.c.strategy,
        CAMPAIGN.c.release,
        CAMPAIGN.c.created_at,
        CAMPAIGN.c.undoes,
        CAMPAIGN.c.suspect,
        ASSIGNMENT.c.state,
        ASSIGNMENT.c.action,
        ASSIGNMENT.c.wake_at,
    )
    .select_from(ASSIGNMENT.join(CAMPAIGN, CAMPAIGN.c.id == ASSIGNMENT.c.campaign))
    .where(
        ASSIGNMENT.c.target == bindparam("target"),
        ASSIGNMENT.c.campaign != bindparam("campaign"),
        ASSIGNMENT.c.state.in_(_OPEN),
        CAMPAIGN.c.state.in_([str(state) for state in LIVE]),
    )
    .order_by(CAMPAIGN.c.created_at, CAMPAIGN.c.id)
)
_MADE_AT = select(CAMPAIGN.c.created_at).where(CAMPAIGN.c.id == bindparam("campaign"))


def at(db: Connection, target: TargetRow, campaign: CampaignRow) -> tuple[Rival, ...]:
    """The other campaigns under way whose part at the target has no permit yet, oldest first."""
    rows = db.execute(_RIVALS, {"target": target.id, "campaign": campaign.id}).mappings()
    return tuple(_rival(row) for row in rows)


def made_at(db: Connection, campaign: CampaignRow) -> float:
    """When the campaign was made."""
    return float(db.execute(_MADE_AT, {"campaign": campaign.id}).scalar_one())


def _rival(row: RowMapping) -> Rival:
    return Rival(
        campaign=row["id"],
        campaign_state=row["campaign_state"],
        priority=row["strategy"].get("priority", 0),
        made_at=row["created_at"],
        product=row["release"]["product"],
        counter=row["release"]["counter"],
        state=row["state"],
        waits=row["state"] == AssignmentState.PLANNED and row["wake_at"] is not None,
        goes_back=row["action"] == Action.ROLLBACK,
        undoes=row["undoes"] is not None,
        suspect=bool(row["suspect"]),
    )
