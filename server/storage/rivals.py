"""Other campaigns that want a target, or hold it. By the target's own few assignments."""

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, bindparam, select

from firmware.protocol.words import Action
from server.planner.rows import CampaignRow, TargetRow
from server.planner.states import LIVE, WAITING
from server.planner.surroundings import Rival
from server.planner.words import AssignmentState
from server.storage.desk import MADE_AT, RIVALS, Desk
from server.storage.tables import ASSIGNMENT, CAMPAIGN

_OPEN = [str(state) for state in (AssignmentState.PLANNED, *WAITING)]
_RIVALS = (
    select(
        ASSIGNMENT.c.target,
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
        ASSIGNMENT.c.target.in_(bindparam("targets", expanding=True)),
        ASSIGNMENT.c.campaign != bindparam("campaign"),
        ASSIGNMENT.c.state.in_(_OPEN),
        CAMPAIGN.c.state.in_([str(state) for state in LIVE]),
    )
    .order_by(CAMPAIGN.c.created_at, CAMPAIGN.c.id)
)
_MADE_AT = select(CAMPAIGN.c.created_at).where(CAMPAIGN.c.id == bindparam("campaign"))


def at(db: Connection, target: TargetRow, campaign: CampaignRow) -> tuple[Rival, ...]:
    """The other campaigns under way whose part at the target has no permit yet, oldest first."""
    known = Desk.of(db).known(RIVALS)
    if campaign.id not in known.get((target.id,), {}):
        fetch(db, [target.id], campaign.id)
    found: tuple[Rival, ...] = known[(target.id,)][campaign.id]
    return found


def fetch(db: Connection, targets: Sequence[str], campaign: str) -> None:
    """Fetch for many targets at once what `at` says of them in a campaign."""
    found: dict[str, list[Rival]] = {target: [] for target in targets}
    for row in db.execute(_RIVALS, {"targets": list(targets), "campaign": campaign}).mappings():
        found[row["target"]].append(_rival(row))
    known = Desk.of(db).known(RIVALS)
    for target, those in found.items():
        known.setdefault((target,), {})[campaign] = tuple(those)


def made_at(db: Connection, campaign: CampaignRow) -> float:
    """When the campaign was made."""

    def found() -> float:
        return float(db.execute(_MADE_AT, {"campaign": campaign.id}).scalar_one())

    return float(Desk.of(db).get(MADE_AT, (campaign.id,), found))


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
