"""Between table rows and the planner's values. Enumerations are stored as words, nested values as JSON."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import RowMapping, Table

from firmware.protocol.codec import ready
from firmware.protocol.words import Action
from server.planner.gate_rows import BlockRow, GateInput, Stratum
from server.planner.revision_rows import RevisionRow, RevisionState
from server.planner.rows import (
    Approval,
    AssignmentRow,
    CampaignRow,
    CohortRow,
    GroupRow,
    ReleaseKey,
    Row,
    TargetRow,
    TokenRow,
)
from server.planner.selection import Selection
from server.planner.strategy import Strategy
from server.planner.surroundings import BehindRow
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict, TokenKind
from server.storage.tables import ASSIGNMENT, BEHIND, BLOCK, CAMPAIGN, COHORT, GROUP, REVISION, TARGET, TOKEN

ZONE_LABELS = ("timezone", "agent.timezone")
"""What names a target's time zone: an operator's word before the device's own."""
CAMPAIGN_COLUMNS = tuple(CAMPAIGN.c[name] for name in CampaignRow.__struct_fields__)
ASSIGNMENT_COLUMNS = tuple(ASSIGNMENT.c[name] for name in AssignmentRow.__struct_fields__)
KEY_COLUMNS: Mapping[Table, tuple[str, ...]] = {
    CAMPAIGN: ("id",),
    COHORT: ("campaign", "index"),
    ASSIGNMENT: ("campaign", "target"),
    TARGET: ("id",),
    GROUP: ("key",),
    TOKEN: ("target", "group"),
    BLOCK: ("campaign", "cohort", "stratum", "site"),
    BEHIND: ("campaign", "gateway"),
    REVISION: ("campaign", "number"),
}
"""What a planner's row is found by, in the order of `key_of`."""


def campaign_row(row: RowMapping) -> CampaignRow:
    """A campaign from its columns, strategy and release rebuilt from JSON."""
    values = {name: row[name] for name in CampaignRow.__struct_fields__}
    values["state"] = CampaignState(values["state"])
    values["release"] = ReleaseKey(**values["release"])
    values["strategy"] = msgspec.convert(values["strategy"], ready(Strategy))
    for name in ("approvals", "declined"):
        values[name] = tuple(Approval(**one) for one in values[name])
    return CampaignRow(**values)


def revision_row(row: RowMapping) -> RevisionRow:
    """A revision from its columns."""
    values = dict(row)
    values["state"] = RevisionState(values["state"])
    values["strategy"] = msgspec.convert(values["strategy"], ready(Strategy))
    values["selection"] = msgspec.convert(values["selection"], ready(Selection))
    values["agreed"], values["changes"] = tuple(values["agreed"]), tuple(values["changes"])
    return RevisionRow(**values)


def cohort_row(row: RowMapping) -> CohortRow:
    """A cohort from its columns; its counts are keyed by assignment state."""
    values = dict(row)
    values["state"] = CohortState(values["state"])
    values["verdict"] = GateVerdict(values["verdict"])
    values["counts"] = {AssignmentState(name): number for name, number in values["counts"].items()}
    values["strata"] = {name: msgspec.convert(one, ready(Stratum)) for name, one in values["strata"].items()}
    values["inputs"] = {name: msgspec.convert(one, ready(GateInput)) for name, one in values["inputs"].items()}
    values["evidence"] = tuple(values["evidence"])
    return CohortRow(**values)


def assignment_row(row: RowMapping) -> AssignmentRow:
    """An assignment from its columns."""
    values = {name: row[name] for name in AssignmentRow.__struct_fields__}
    values["state"] = AssignmentState(values["state"])
    values["action"] = Action(values["action"])
    values["via"] = None if values["via"] is None else ReleaseKey(**values["via"])
    values["gateways"] = tuple(values["gateways"] or ())
    return AssignmentRow(**values)


def block_row(row: RowMapping) -> BlockRow:
    """A site from its columns."""
    return BlockRow(**{**row, "spoken": tuple(row["spoken"])})


def token_row(row: RowMapping) -> TokenRow:
    """A token from its columns."""
    return TokenRow(**{**row, "kind": TokenKind(row["kind"])})


def group_row(row: RowMapping) -> GroupRow:
    """A budget group from its columns."""
    return GroupRow(**row)


def group_keys(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The budget groups labels put a target into: `name=value` for each, sorted."""
    return tuple(sorted(f"{name}={value}" for name, value in labels.items()))


def key_of(row: Row) -> tuple[Table, dict[str, Any]]:
    """Where a planner row lives: its table and primary key."""
    match row:
        case CampaignRow():
            return CAMPAIGN, {"id": row.id}
        case CohortRow():
            return COHORT, {"campaign": row.campaign, "index": row.index}
        case AssignmentRow():
            return ASSIGNMENT, {"campaign": row.campaign, "target": row.target}
        case TargetRow():
            return TARGET, {"id": row.id}
        case GroupRow():
            return GROUP, {"key": row.key}
        case TokenRow():
            return TOKEN, {"target": row.target, "group": row.group}
        case BlockRow():
            return BLOCK, {"campaign": row.campaign, "cohort": row.cohort, "stratum": row.stratum, "site": row.site}
        case BehindRow():
            return BEHIND, {"campaign": row.campaign, "gateway": row.gateway}
        case RevisionRow():
            return REVISION, {"campaign": row.campaign, "number": row.number}


def values_of(row: Row) -> dict[str, Any]:
    """The columns a planner row writes, key and `version` left out.

    Of a target only what the planner decides: its hardware, labels and standing belong to identity.
    """
    if isinstance(row, TargetRow):
        return _target_values(row)
    _, key = key_of(row)
    plain = {name: getattr(row, name) for name in row.__struct_fields__ if name not in key and name != "version"}
    if isinstance(row, CampaignRow):
        plain["release"] = msgspec.structs.asdict(row.release)
        plain["strategy"] = msgspec.to_builtins(row.strategy)
        plain["approvals"] = [msgspec.structs.asdict(one) for one in row.approvals]
        plain["declined"] = [msgspec.structs.asdict(one) for one in row.declined]
    if isinstance(row, RevisionRow):
        plain["strategy"] = msgspec.to_builtins(row.strategy)
        plain["selection"] = msgspec.to_builtins(row.selection)
        plain["agreed"], plain["changes"] = list(row.agreed), list(row.changes)
    if isinstance(row, AssignmentRow):
        plain["via"] = None if row.via is None else msgspec.structs.asdict(row.via)
        plain["gateways"] = list(row.gateways) or None
    if isinstance(row, CohortRow):
        plain["counts"] = {str(state): number for state, number in row.counts.items()}
        plain["strata"] = msgspec.to_builtins(row.strata)
        plain["inputs"] = msgspec.to_builtins(row.inputs)
        plain["evidence"] = list(row.evidence)
    if isinstance(row, BlockRow):
        plain["spoken"] = list(row.spoken)
    return plain


def _target_values(row: TargetRow) -> dict[str, Any]:
    values: dict[str, Any] = {
        "running_version": row.running_version,
        "running_sha256": row.running_sha256,
        "rollback_available": row.rollback_available,
        "holder": row.holder,
        "settled": row.settled,
    }
    if row.holder is not None:
        values["last_campaign"] = row.holder
    return values
