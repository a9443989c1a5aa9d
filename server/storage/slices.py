"""Slices for the planner, and its decisions by compare-and-set.

These statements run several times for every report, so each is built once, here, and only its values change.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Delete, Table, Update, and_, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from server.errors import ConflictError
from server.planner import downloads
from server.planner.decision import Decision, Put
from server.planner.gate_rows import BlockRow
from server.planner.gateways import path_groups
from server.planner.rows import (
    AssignmentRow,
    CampaignRow,
    CohortRow,
    GroupRow,
    Row,
    TargetRow,
    TokenRow,
    campaign_group,
)
from server.planner.slices import Footprint, Slice
from server.planner.strata import keys
from server.planner.surroundings import NOWHERE
from server.ports import AgentStatus
from server.storage import around, group_sizes, revisions
from server.storage.rows import (
    ASSIGNMENT_COLUMNS,
    CAMPAIGN_COLUMNS,
    ZONE_LABELS,
    assignment_row,
    block_row,
    campaign_row,
    cohort_row,
    group_keys,
    group_row,
    key_of,
    token_row,
    values_of,
)
from server.storage.tables import (
    AGENT,
    ASSIGNMENT,
    BEHIND,
    BLOCK,
    CAMPAIGN,
    COHORT,
    GROUP,
    REVISION,
    TARGET,
    TARGET_LABEL,
    TOKEN,
)

_TARGET_COLUMNS = (
    TARGET.c.id,
    TARGET.c.agent,
    TARGET.c.hardware,
    TARGET.c.running_version,
    TARGET.c.running_sha256,
    TARGET.c.rollback_available,
    TARGET.c.holder,
    TARGET.c.settled,
    TARGET.c.version,
    TARGET.c.presence,
    TARGET.c.running_product.label("product"),
    AGENT.c.status,
    around.IS_GATEWAY.label("is_gateway"),
)
_CAMPAIGN = select(*CAMPAIGN_COLUMNS).where(CAMPAIGN.c.id == bindparam("campaign"))
_COHORTS = select(COHORT).where(COHORT.c.campaign == bindparam("campaign")).order_by(COHORT.c.index)
_ASSIGNMENT = select(*ASSIGNMENT_COLUMNS).where(
    ASSIGNMENT.c.campaign == bindparam("campaign"), ASSIGNMENT.c.target == bindparam("target")
)
_TARGET = (
    select(*_TARGET_COLUMNS)
    .select_from(TARGET.join(AGENT, AGENT.c.id == TARGET.c.agent))
    .where(TARGET.c.id == bindparam("target"))
)
_LABELS = select(TARGET_LABEL.c.name, TARGET_LABEL.c.value).where(TARGET_LABEL.c.target == bindparam("target"))
_TOKENS = select(TOKEN).where(TOKEN.c.target == bindparam("target")).order_by(TOKEN.c.group)
_BLOCK = select(BLOCK).where(
    BLOCK.c.campaign == bindparam("campaign"),
    BLOCK.c.cohort == bindparam("cohort"),
    BLOCK.c.stratum == bindparam("stratum"),
    BLOCK.c.site == bindparam("site"),
)
_GROUPS = select(GROUP).where(GROUP.c.key.in_(bindparam("keys", expanding=True))).order_by(GROUP.c.key)

_KEY = "key_"
"""Prefix of the values a row is found by, apart from those it is given."""


def load(db: Connection, footprint: Footprint) -> Slice:
    """The rows an event touches; `campaign` None with a `target` means the campaign that holds the target.

    `Slice.holders` stays empty: who explains asks for them.
    """
    target = None if footprint.target is None else _target(db, footprint.target)
    campaign_id = footprint.campaign or (target.holder if target else None)
    campaign = None if campaign_id is None else _campaign(db, campaign_id)
    assignment = None if campaign is None or target is None else _assignment(db, campaign.id, target.id)
    tokens = () if target is None else _tokens(db, target.id)
    return Slice(
        campaign=campaign,
        cohorts=() if campaign is None else cohorts_of(db, campaign.id),
        target=target,
        assignment=assignment,
        groups=() if target is None else _groups(db, target, tokens, campaign_id),
        tokens=tokens,
        proposal=None if campaign is None or target is not None else revisions.proposal(db, campaign.id),
        around=NOWHERE if target is None else around.load(db, target, campaign, assignment),
        blocks=() if campaign is None or assignment is None else _blocks(db, campaign, assignment),
    )


def commit(db: Connection, decision: Decision) -> None:
    """Apply the changes by compare-and-set. Raises `ConflictError` when a row did not match; nothing is kept then."""
    if not decision.changes:
        return
    with db.begin_nested():
        group_sizes.before_tokens(db, decision.changes)
        for change in decision.changes:
            if not isinstance(change, Put):
                _found(db, _DELETES[key_of(change.row)[0]], change.row, {})
            elif change.row.version == 0:
                add(db, change.row)
            else:
                values = {**values_of(change.row), "version": change.row.version + 1}
                _found(db, _UPDATES[key_of(change.row)[0]], change.row, values)


def add(db: Connection, row: Row) -> None:
    """Insert a row; raises `ConflictError` when there is one with its key. Targets are made by enrolment only."""
    table, key = key_of(row)
    if isinstance(row, TargetRow):
        raise ConflictError("Targets are made by enrolment only.")
    try:
        db.execute(insert(table), {**key, **values_of(row), "version": 1})
    except IntegrityError as error:
        raise ConflictError(f"The {table.name} {'/'.join(map(str, key.values()))} exists already.") from error


def cohorts_of(db: Connection, campaign: str) -> tuple[CohortRow, ...]:
    """A campaign's cohorts in their order."""
    return tuple(cohort_row(row) for row in db.execute(_COHORTS, {"campaign": campaign}).mappings())


def _found(db: Connection, statement: Update | Delete, row: Row, values: dict[str, object]) -> None:
    table, key = key_of(row)
    where = {_KEY + name: value for name, value in {**key, "version": row.version}.items()}
    if db.execute(statement, {**values, **where}).rowcount != 1:
        raise ConflictError(f"The {table.name} {'/'.join(map(str, key.values()))} changed since it was loaded.")


def _campaign(db: Connection, campaign: str) -> CampaignRow | None:
    row = db.execute(_CAMPAIGN, {"campaign": campaign}).mappings().first()
    return None if row is None else campaign_row(row)


def _assignment(db: Connection, campaign: str, target: str) -> AssignmentRow | None:
    row = db.execute(_ASSIGNMENT, {"campaign": campaign, "target": target}).mappings().first()
    return None if row is None else assignment_row(row)


def _target(db: Connection, target: str) -> TargetRow | None:
    row = db.execute(_TARGET, {"target": target}).mappings().first()
    if row is None:
        return None
    values = dict(row)
    status, online = AgentStatus(values.pop("status")), values.pop("presence")
    labels = {label.name: label.value for label in db.execute(_LABELS, {"target": target})}
    path = around.path(db, target, labels)
    return TargetRow(
        **values,
        gateways=path.gateways,
        path_fault=path.fault,
        offline=not online,
        quarantined=status is not AgentStatus.ACTIVE,
        gone=status.shut_out,
        groups=group_keys(labels),
        zone=next((labels[name] for name in ZONE_LABELS if name in labels), None),
    )


def _tokens(db: Connection, target: str) -> tuple[TokenRow, ...]:
    return tuple(token_row(row) for row in db.execute(_TOKENS, {"target": target}).mappings())


def _blocks(db: Connection, campaign: CampaignRow, assignment: AssignmentRow) -> tuple[BlockRow, ...]:
    found = []
    for cohort, stratum, site in keys(campaign.strategy, assignment, campaign.cohort):
        where = {"campaign": campaign.id, "cohort": cohort, "stratum": stratum, "site": site}
        found += [block_row(row) for row in db.execute(_BLOCK, where).mappings()]
    return tuple(found)


def _groups(
    db: Connection, target: TargetRow, tokens: Sequence[TokenRow], campaign: str | None
) -> tuple[GroupRow, ...]:
    keys = {*target.groups, *path_groups(target), *(token.group for token in tokens)}
    if campaign is not None:
        keys.update((campaign_group(campaign), *downloads.groups_of(target, campaign)))
    return tuple(group_row(row) for row in db.execute(_GROUPS, {"keys": sorted(keys)}).mappings())


_KEYS = {
    table: and_(*(column == bindparam(_KEY + column.name) for column in (*table.primary_key, table.c.version)))
    for table in (CAMPAIGN, COHORT, ASSIGNMENT, TARGET, GROUP, TOKEN, BLOCK, BEHIND, REVISION)
}
_UPDATES: dict[Table, Update] = {table: update(table).where(found) for table, found in _KEYS.items()}
_DELETES: dict[Table, Delete] = {table: delete(table).where(found) for table, found in _KEYS.items()}
