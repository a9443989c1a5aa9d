"""Rows that the contract tests of storage begin with."""

import dataclasses

from msgspec.structs import replace

from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, ReleaseKey
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, Strategy
from server.planner.words import AssignmentState, CampaignState, CohortState
from server.ports import (
    AgentRecord,
    AgentStatus,
    ReleaseImage,
    ReleaseRecord,
    StoredFile,
    Unit,
)

STRATEGY = Strategy(
    name="careful",
    cohorts=(
        CohortPolicy(name="canary", count=1, gate=GatePolicy(kind="rate", max_failure_rate=0.25)),
        CohortPolicy(name="rest", percent=12.5),
    ),
    budgets=(BudgetPolicy(by="site", limit=3),),
    patience_s=12.5,
)
CAMPAIGN = CampaignRow(
    id="spring",
    change_id="chg-1",
    state=CampaignState.DRAFT,
    release=ReleaseKey(product="lamp", version="2", counter=2, sha256="a" * 64),
    strategy=STRATEGY,
    seed=(1 << 53) - 1,
)
COHORTS = (
    CohortRow(campaign="spring", index=0, name="canary", state=CohortState.CLOSED, size=1),
    CohortRow(
        campaign="spring",
        index=1,
        name="rest",
        state=CohortState.CLOSED,
        size=2,
        counts={AssignmentState.PLANNED: 2},
    ),
)
RELEASE = ReleaseRecord(
    product="lamp",
    version="2",
    counter=2,
    hardware=("hw-1", "hw-2"),
    manifest=StoredFile(path="releases/lamp/2/manifest.json", length=10, sha256="b" * 64),
    images=(ReleaseImage(file=StoredFile(path="releases/lamp/2/image", length=1 << 40, sha256="a" * 64)),),
)


def agent(name: str, **changes: object) -> AgentRecord:
    made = AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=f"key-{name}",
        report_key={"keytype": "ed25519", "keyval": {"public": name}},
        certificate_serial="1",
        enrolled_at=1.5,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def enrol(unit: Unit, *names: str, hardware: str = "hw-1", **labels: str) -> None:
    for name in names:
        unit.identities.add_agent(agent(name), hardware=hardware, labels=labels)


def assignment(target: str, rank: int, cohort: int = 1, **changes: object) -> AssignmentRow:
    made = AssignmentRow(
        campaign="spring", target=target, cohort=cohort, rank=rank, state=AssignmentState.PLANNED, state_since=5.0
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def plan(unit: Unit) -> None:
    enrol(unit, "t1", "t2", "t3", site="berlin")
    unit.campaigns.create(CAMPAIGN, "spring", COHORTS, created_at=3.0, created_by="ann")
    unit.campaigns.add_assignments([assignment("t1", 0, 0), assignment("t2", 1), assignment("t3", 0)])
