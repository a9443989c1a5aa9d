"""Slices for the planner, and its decisions by compare-and-set.

What belongs to one target is fetched for many targets at once (`fetch`), or for one when it is looked at; the desk keeps it for
the rest of the transaction. Each statement is built once, here, and only its values change.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, RowMapping, Table, bindparam, select

from server.errors import ConflictError
from server.planner import downloads
from server.planner.decision import Change, Decision, Put
from server.planner.gate_rows import BlockRow
from server.planner.gateways import path_groups
from server.planner.revision_rows import RevisionRow
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
from server.planner.surroundings import NOWHERE, BehindRow
from server.ports import AgentStatus
from server.storage import around, group_sizes, revisions, rivals
from server.storage.desk import RIVALS, Desk
from server.storage.rows import (
    ASSIGNMENT_COLUMNS,
    CAMPAIGN_COLUMNS,
    KEY_COLUMNS,
    ZONE_LABELS,
    assignment_row,
    block_row,
    campaign_row,
    cohort_row,
    group_keys,
    group_row,
    key_of,
    revision_row,
    token_row,
)
from server.storage.tables import (
    AGENT,
    ASSIGNMENT,
    BLOCK,
    CAMPAIGN,
    COHORT,
    GROUP,
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
_TARGETS = (
    select(*_TARGET_COLUMNS)
    .select_from(TARGET.join(AGENT, AGENT.c.id == TARGET.c.agent))
    .where(TARGET.c.id.in_(bindparam("targets", expanding=True)))
)
_ASSIGNMENTS = select(*ASSIGNMENT_COLUMNS).where(
    ASSIGNMENT.c.campaign == bindparam("campaign"), ASSIGNMENT.c.target.in_(bindparam("targets", expanding=True))
)
_LABELS = select(TARGET_LABEL).where(TARGET_LABEL.c.target.in_(bindparam("targets", expanding=True)))
_TOKENS = (
    select(TOKEN)
    .where(TOKEN.c.target.in_(bindparam("targets", expanding=True)))
    .order_by(TOKEN.c.target, TOKEN.c.group)
)
_BLOCK = select(BLOCK).where(
    BLOCK.c.campaign == bindparam("campaign"),
    BLOCK.c.cohort == bindparam("cohort"),
    BLOCK.c.stratum == bindparam("stratum"),
    BLOCK.c.site == bindparam("site"),
)
_GROUPS = select(GROUP).where(GROUP.c.key.in_(bindparam("keys", expanding=True)))
_FEW = 500
"""Names in one statement."""


def fetch(db: Connection, targets: Iterable[str], campaign: str | None = None) -> None:
    """Fetch what `load` gives of these targets in the campaigns that hold them, and in the one that is to admit them."""
    names = list(dict.fromkeys(targets))
    for place in range(0, len(names), _FEW):
        page = names[place : place + _FEW]
        _fetch(db, page)
        if campaign is not None:
            _fetch_assignments(db, campaign, page)
            rivals.fetch(db, page, campaign)
            found = [target for name in page if (target := _target(db, name)) is not None]
            _fetch_groups(db, {key for one in found for key in _group_keys(one, _tokens(db, one.id), campaign)})


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
    found = [(change, *_stored(db, change)) for change in decision.changes]
    for change, table, key, stored in found:
        _check(change, table.name, key, stored)
    group_sizes.before_tokens(db, decision.changes)
    desk = Desk.of(db)
    for change, table, key, stored in found:
        after = replace(change.row, version=change.row.version + 1) if isinstance(change, Put) else None
        desk.change(table, key, stored, after)
        _retell(desk, table, key, after)


def add(db: Connection, row: Row) -> None:
    """Insert a row; raises `ConflictError` when there is one with its key. Targets are made by enrolment only."""
    commit(db, Decision(changes=(Put(row=replace(row, version=0)),)))


def cohorts_of(db: Connection, campaign: str) -> tuple[CohortRow, ...]:
    """A campaign's cohorts in their order."""

    def found() -> dict[int, CohortRow]:
        return {row["index"]: cohort_row(row) for row in db.execute(_COHORTS, {"campaign": campaign}).mappings()}

    cohorts: dict[int, CohortRow] = Desk.of(db).get(COHORT, (campaign,), found)
    return tuple(cohorts.values())


def _fetch(db: Connection, names: Sequence[str]) -> None:
    desk = Desk.of(db)
    targets = desk.known(TARGET)
    missing = [name for name in names if (name,) not in targets]
    _fetch_targets(db, missing)
    by_campaign: dict[str, list[str]] = {}
    wanted: set[str] = set()
    for name in missing:
        target: TargetRow | None = targets[(name,)]
        if target is not None:
            wanted.update(target.groups)
            if target.holder is not None:
                by_campaign.setdefault(target.holder, []).append(name)
    _fetch_tokens(db, missing)
    for campaign, held in by_campaign.items():
        _fetch_assignments(db, campaign, held)
        row = _campaign(db, campaign)
        for name in held if row is not None else ():
            wanted.update(_group_keys(targets[(name,)], _tokens(db, name), campaign))
    _fetch_groups(db, wanted)
    around.fetch_sizes(db, {key for name in missing if (one := targets[(name,)]) is not None for key in one.groups})


def _fetch_targets(db: Connection, names: Sequence[str]) -> None:
    if not names:
        return
    labels: dict[str, dict[str, str]] = {name: {} for name in names}
    for label in db.execute(_LABELS, {"targets": list(names)}):
        labels[label.target][label.name] = label.value
    rows = {row["id"]: row for row in db.execute(_TARGETS, {"targets": list(names)}).mappings()}
    known = Desk.of(db).known(TARGET)
    for name in names:
        row = rows.get(name)
        known[(name,)] = None if row is None else _target_row(db, row, labels[name])


def _fetch_tokens(db: Connection, names: Sequence[str]) -> None:
    known = Desk.of(db).known(TOKEN)
    missing = [name for name in names if (name,) not in known]
    if not missing:
        return
    rows = list(db.execute(_TOKENS, {"targets": missing}).mappings())
    known = Desk.of(db).known(TOKEN)
    for name in missing:
        known[(name,)] = {}
    for row in rows:
        known[(row["target"],)][row["group"]] = token_row(row)


def _fetch_assignments(db: Connection, campaign: str, names: Sequence[str]) -> None:
    known = Desk.of(db).known(ASSIGNMENT)
    missing = [name for name in names if (campaign, name) not in known]
    if not missing:
        return
    rows = list(db.execute(_ASSIGNMENTS, {"campaign": campaign, "targets": missing}).mappings())
    found = {row["target"]: assignment_row(row) for row in rows}
    known.update({(campaign, name): found.get(name) for name in missing})


def _fetch_groups(db: Connection, keys: Iterable[str]) -> None:
    known = Desk.of(db).known(GROUP)
    missing = sorted(key for key in set(keys) if (key,) not in known)
    for place in range(0, len(missing), _FEW):
        page = missing[place : place + _FEW]
        found = {row["key"]: group_row(row) for row in db.execute(_GROUPS, {"keys": page}).mappings()}
        known.update({(key,): found.get(key) for key in page})


def _campaign(db: Connection, campaign: str) -> CampaignRow | None:
    def found() -> CampaignRow | None:
        row = db.execute(_CAMPAIGN, {"campaign": campaign}).mappings().first()
        return None if row is None else campaign_row(row)

    kept: CampaignRow | None = Desk.of(db).get(CAMPAIGN, (campaign,), found)
    return kept


def _assignment(db: Connection, campaign: str, target: str) -> AssignmentRow | None:
    _fetch_assignments(db, campaign, [target])
    found: AssignmentRow | None = Desk.of(db).known(ASSIGNMENT)[(campaign, target)]
    return found


def _target(db: Connection, target: str) -> TargetRow | None:
    known = Desk.of(db).known(TARGET)
    if (target,) not in known:
        _fetch_targets(db, [target])
    found: TargetRow | None = Desk.of(db).known(TARGET)[(target,)]
    return found


def _target_row(db: Connection, row: RowMapping, labels: dict[str, str]) -> TargetRow:
    values = dict(row)
    status, online = AgentStatus(values.pop("status")), values.pop("presence")
    path = around.path(db, values["id"], labels)
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
    _fetch_tokens(db, [target])
    tokens: dict[str, TokenRow] = Desk.of(db).known(TOKEN)[(target,)]
    return tuple(tokens[group] for group in sorted(tokens))


def _blocks(db: Connection, campaign: CampaignRow, assignment: AssignmentRow) -> tuple[BlockRow, ...]:
    places = keys(campaign.strategy, assignment, campaign.cohort)
    found = [_block(db, (campaign.id, cohort, stratum, site)) for cohort, stratum, site in places]
    return tuple(row for row in found if row is not None)


def _block(db: Connection, key: tuple[str, int, str, str]) -> BlockRow | None:
    def found() -> BlockRow | None:
        row = db.execute(_BLOCK, dict(zip(KEY_COLUMNS[BLOCK], key, strict=True))).mappings().first()
        return None if row is None else block_row(row)

    kept: BlockRow | None = Desk.of(db).get(BLOCK, key, found)
    return kept


def _group_keys(target: TargetRow, tokens: Sequence[TokenRow], campaign: str | None) -> set[str]:
    wanted = {*target.groups, *path_groups(target), *(token.group for token in tokens)}
    if campaign is not None:
        wanted.update((campaign_group(campaign), *downloads.groups_of(target, campaign)))
    return wanted


def _groups(
    db: Connection, target: TargetRow, tokens: Sequence[TokenRow], campaign: str | None
) -> tuple[GroupRow, ...]:
    wanted = sorted(_group_keys(target, tokens, campaign))
    _fetch_groups(db, wanted)
    known = Desk.of(db).known(GROUP)
    return tuple(row for key in wanted if (row := known[(key,)]) is not None)


def _stored(db: Connection, change: Change) -> tuple[Table, tuple[Any, ...], Row | None]:
    """Where a row lives, and what is stored there now."""
    table, named = key_of(change.row)
    key, row = tuple(named.values()), change.row
    match row:
        case CampaignRow():
            return table, key, _campaign(db, row.id)
        case CohortRow():
            cohorts_of(db, row.campaign)
            return table, key, Desk.of(db).known(COHORT)[(row.campaign,)].get(row.index)
        case AssignmentRow():
            return table, key, _assignment(db, row.campaign, row.target)
        case TargetRow():
            return table, key, _target(db, row.id)
        case GroupRow():
            _fetch_groups(db, [row.key])
            return table, key, Desk.of(db).known(GROUP)[key]
        case TokenRow():
            _tokens(db, row.target)
            return table, key, Desk.of(db).known(TOKEN)[(row.target,)].get(row.group)
        case BlockRow():
            return table, key, _block(db, (row.campaign, row.cohort, row.stratum, row.site))
    return table, key, Desk.of(db).get(table, key, lambda: _other(db, row))


def _other(db: Connection, row: Row) -> Row | None:
    """A row of a kind that is looked at seldom."""
    table, key = key_of(row)
    found = db.execute(select(table).where(*(table.c[name] == value for name, value in key.items()))).mappings().first()
    return None if found is None else (revision_row(found) if isinstance(row, RevisionRow) else BehindRow(**found))


def _check(change: Change, table: str, key: tuple[Any, ...], stored: Row | None) -> None:
    name = f"{table} {'/'.join(map(str, key))}"
    if change.row.version == 0 and isinstance(change, Put):
        if isinstance(change.row, TargetRow):
            raise ConflictError("Targets are made by enrolment only.")
        if stored is not None:
            raise ConflictError(f"The {name} exists already.")
    elif stored is None or stored.version != change.row.version:
        raise ConflictError(f"The {name} changed since it was loaded.")


def _retell(desk: Desk, table: Table, key: tuple[Any, ...], after: Row | None) -> None:
    """Keep what is known in step: of tokens and cohorts all that their target or campaign has."""
    if table is ASSIGNMENT:
        asked = desk.known(RIVALS).get((key[1],), {})
        for campaign in [one for one in asked if one != key[0]]:
            del asked[campaign]
    elif table is CAMPAIGN:
        desk.forget(RIVALS)
    if table is not TOKEN and table is not COHORT:
        desk.known(table)[key] = after
        return
    rows = desk.known(table)[(key[0],)]
    if after is None:
        rows.pop(key[1], None)
    else:
        rows[key[1]] = after
