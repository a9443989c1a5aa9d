"""What a target stands among: the facts of a slice that no decision writes. All by key, and none without need."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, bindparam, exists, func, select

from server.planner.drift import STARTED
from server.planner.gateways import LABELS, OWN_LABELS, Path, named, path_of
from server.planner.rows import AssignmentRow, CampaignRow, ReleaseKey, TargetRow
from server.planner.surroundings import (
    MAX_PEERS,
    BehindRow,
    Evidence,
    GroupSize,
    Neighbour,
    Peers,
    Predecessor,
    Surroundings,
    cohort_key,
)
from server.planner.words import LATE, AssignmentState, TokenKind
from server.ports import AgentStatus, ReleaseState
from server.storage import inquiries, rivals, words
from server.storage.desk import Desk
from server.storage.tables import (
    AGENT,
    ASSIGNMENT,
    BEHIND,
    CAMPAIGN,
    COHORT,
    GROUP_SIZE,
    LOG_REQUEST,
    RELEASE,
    TARGET,
    TARGET_LABEL,
    TOKEN,
)

GATEWAY_LABELS = (*LABELS, *OWN_LABELS)
IS_GATEWAY = exists().where(TARGET_LABEL.c.name.in_(GATEWAY_LABELS), TARGET_LABEL.c.value == TARGET.c.id)
"""Whether another target names this one as its gateway."""
_SIZES = select(GROUP_SIZE).where(GROUP_SIZE.c.key.in_(bindparam("keys", expanding=True)))
_HOPS = select(TARGET_LABEL).where(
    TARGET_LABEL.c.target.in_(bindparam("targets", expanding=True)), TARGET_LABEL.c.name.in_(GATEWAY_LABELS)
)
_BEHIND = select(BEHIND).where(
    BEHIND.c.campaign == bindparam("campaign"), BEHIND.c.gateway.in_(bindparam("gateways", expanding=True))
)
_BEFORE = select(CAMPAIGN.c.id, CAMPAIGN.c.state, CAMPAIGN.c.changed_at).where(
    CAMPAIGN.c.id.in_(bindparam("campaigns", expanding=True))
)
_RUNS = (
    TARGET.c.id,
    TARGET.c.running_product.label("product"),
    TARGET.c.running_version.label("version"),
    TARGET.c.running_counter.label("counter"),
)
_NEIGHBOURS = select(*_RUNS).where(TARGET.c.id.in_(bindparam("targets", expanding=True))).order_by(TARGET.c.id)
_LABELS_OF = select(TARGET_LABEL).where(TARGET_LABEL.c.target.in_(bindparam("targets", expanding=True)))
_IN_FLIGHT = exists().where(TOKEN.c.target == TARGET.c.id, TOKEN.c.kind == str(TokenKind.IN_FLIGHT))
_PEERS = (
    select(
        *_RUNS,
        _IN_FLIGHT.label("in_flight"),
        ASSIGNMENT.c.state,
        func.coalesce(ASSIGNMENT.c.reason_kind, "none").label("reason_kind"),
        (func.coalesce(COHORT.c.name, "") == LATE).label("is_late"),
    )
    .select_from(
        TARGET_LABEL.join(TARGET, TARGET.c.id == TARGET_LABEL.c.target)
        .join(AGENT, AGENT.c.id == TARGET.c.agent)
        .outerjoin(ASSIGNMENT, and_(ASSIGNMENT.c.target == TARGET.c.id, ASSIGNMENT.c.campaign == bindparam("campaign")))
        .outerjoin(COHORT, and_(COHORT.c.campaign == ASSIGNMENT.c.campaign, COHORT.c.index == ASSIGNMENT.c.cohort))
    )
    .where(
        TARGET_LABEL.c.name == bindparam("label"),
        TARGET_LABEL.c.value == bindparam("value"),
        AGENT.c.status.not_in([str(status) for status in AgentStatus if status.shut_out]),
    )
    .order_by(TARGET_LABEL.c.target)
    .limit(MAX_PEERS + 1)
)
_MINE = CAMPAIGN.alias("mine")
_YOUNGER = (
    select(CAMPAIGN.c.id)
    .select_from(
        ASSIGNMENT.join(CAMPAIGN, CAMPAIGN.c.id == ASSIGNMENT.c.campaign).join(
            _MINE, CAMPAIGN.c.created_at > _MINE.c.created_at
        )
    )
    .where(
        ASSIGNMENT.c.target == bindparam("target"),
        _MINE.c.id == bindparam("campaign"),
        CAMPAIGN.c.state.in_([str(state) for state in STARTED]),
    )
    .order_by(CAMPAIGN.c.created_at.desc())
    .limit(1)
)
_EVIDENCE = (
    select(LOG_REQUEST.c.state, LOG_REQUEST.c.asked_at, LOG_REQUEST.c.reason)
    .where(LOG_REQUEST.c.target == bindparam("target"), LOG_REQUEST.c.campaign == bindparam("campaign"))
    .order_by(LOG_REQUEST.c.asked_at.desc(), LOG_REQUEST.c.id)
    .limit(1)
)
_STATE = select(RELEASE.c.state).where(
    RELEASE.c.product == bindparam("product"), RELEASE.c.version == bindparam("version")
)
_FEW = 500
_COUNTERS = select(RELEASE.c.counter).where(RELEASE.c.product == bindparam("product")).order_by(RELEASE.c.counter)


def path(db: Connection, target: str, labels: Mapping[str, str]) -> Path:
    """The gateways above a target with these labels."""
    first = named(labels)

    def hops(targets: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        if list(targets) == [target]:
            return {target: first}
        found: dict[str, dict[str, str]] = {name: {} for name in targets}
        for row in db.execute(_HOPS, {"targets": list(targets)}):
            found[row.target][row.name] = row.value
        return {name: named(own) for name, own in found.items()}

    return path_of(target, hops) if first else Path()


def load(
    db: Connection, target: TargetRow, campaign: CampaignRow | None, assignment: AssignmentRow | None
) -> Surroundings:
    """What the target's events look at."""
    fetch_sizes(db, target.groups)
    known = Desk.of(db).known(GROUP_SIZE)
    sizes = tuple(size for key in sorted(target.groups) if (size := known[(key,)]) is not None)
    if campaign is None or assignment is None:
        return Surroundings(sizes=sizes)
    strategy = campaign.strategy
    compared = {policy.by for policy in (strategy.skew, strategy.together) if policy is not None}
    return Surroundings(
        sizes=sizes,
        behind=_behind(db, target, assignment) if strategy.leaves_first else (),
        before=_before(db, [policy.campaign for policy in strategy.after]),
        gateways=_gateways(db, target) if strategy.requires else (),
        peers=tuple(_peers(db, key, campaign.id) for key in target.groups if key.partition("=")[0] in compared),
        counters=tuple(db.execute(_COUNTERS, {"product": campaign.release.product}).scalars()) if strategy.skew else (),
        words=words.about(db, _keys(target, campaign, assignment), names) if (names := _words(campaign)) else (),
        inquiries=inquiries.about(db, _keys(target, campaign, assignment), names)
        if (names := [policy.name for policy in strategy.preconditions if policy.per])
        else (),
        evidence=_evidence(db, assignment) if any(one.evidence for one in strategy.preconditions) else None,
        rivals=rivals.at(db, target, campaign) if assignment.state is AssignmentState.PLANNED else (),
        made_at=rivals.made_at(db, campaign) if assignment.state is AssignmentState.PLANNED else 0.0,
        younger=_younger(db, assignment) if strategy.on_drift == "correct" else None,
        step_is_suspect=assignment.via is not None and _is_suspect(db, assignment.via),
    )


def fetch_sizes(db: Connection, keys: Iterable[str]) -> None:
    """Fetch how many these groups have."""
    known = Desk.of(db).known(GROUP_SIZE)
    missing = sorted(key for key in set(keys) if (key,) not in known)
    for place in range(0, len(missing), _FEW):
        page = missing[place : place + _FEW]
        found = {row["key"]: GroupSize(**row) for row in db.execute(_SIZES, {"keys": page}).mappings()}
        known.update({(key,): found.get(key) for key in page})


def _younger(db: Connection, assignment: AssignmentRow) -> str | None:
    return db.execute(_YOUNGER, {"campaign": assignment.campaign, "target": assignment.target}).scalar()


def _evidence(db: Connection, assignment: AssignmentRow) -> Evidence | None:
    where = {"campaign": assignment.campaign, "target": assignment.target}
    row = db.execute(_EVIDENCE, where).mappings().first()
    return None if row is None else Evidence(**row)


def _keys(target: TargetRow, campaign: CampaignRow, assignment: AssignmentRow) -> list[str]:
    """What words about the target may be about."""
    policies = campaign.strategy.cohorts
    name = policies[assignment.cohort].name if assignment.cohort < len(policies) else LATE
    return [target.id, cohort_key(campaign.id, name), *target.groups]


def _words(campaign: CampaignRow) -> list[str]:
    strategy = campaign.strategy
    verify = [strategy.verify.name] if strategy.verify else []
    return [policy.name for policy in strategy.preconditions if policy.name] + verify


def _is_suspect(db: Connection, release: ReleaseKey) -> bool:
    state = db.execute(_STATE, {"product": release.product, "version": release.version}).scalar()
    return state == str(ReleaseState.SUSPECT)


def _behind(db: Connection, target: TargetRow, assignment: AssignmentRow) -> tuple[BehindRow, ...]:
    keys = [target.id, *assignment.gateways]
    found = db.execute(_BEHIND, {"campaign": assignment.campaign, "gateways": keys}).mappings()
    return tuple(BehindRow(**row) for row in found)


def _before(db: Connection, campaigns: list[str]) -> tuple[Predecessor, ...]:
    return (
        tuple(Predecessor(**row) for row in db.execute(_BEFORE, {"campaigns": campaigns}).mappings())
        if campaigns
        else ()
    )


def _gateways(db: Connection, target: TargetRow) -> tuple[Neighbour, ...]:
    names = list(target.gateways)
    if not names:
        return ()
    groups: dict[str, list[str]] = {}
    for label in db.execute(_LABELS_OF, {"targets": names}):
        groups.setdefault(label.target, []).append(f"{label.name}={label.value}")
    rows = db.execute(_NEIGHBOURS, {"targets": names}).mappings()
    return tuple(Neighbour(**row, groups=tuple(sorted(groups.get(row["id"], ())))) for row in rows)


def _peers(db: Connection, key: str, campaign: str) -> Peers:
    name, _, value = key.partition("=")
    rows = db.execute(_PEERS, {"label": name, "value": value, "campaign": campaign}).mappings().all()
    members = tuple(Neighbour(**{**row, "is_late": bool(row["is_late"])}) for row in rows[:MAX_PEERS])
    return Peers(key=key, members=members, more=len(rows) > MAX_PEERS)
