"""Counters of the members of every group: how many there are, and how many of them are offline without holding a token of it.

They are changed in the transaction that changes what they count: labels, standing, presence, tokens. So they are read by key
instead of being counted. Each function says whether it is called before or after that change.
"""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import (
    Connection,
    Select,
    String,
    and_,
    bindparam,
    case,
    delete,
    distinct,
    exists,
    func,
    insert,
    literal_column,
    select,
    update,
)

from server.planner.decision import Change, Delete
from server.planner.rows import TokenRow
from server.ports import AgentStatus, Drift
from server.storage.desk import Desk
from server.storage.tables import AGENT, GROUP_SIZE, TARGET, TARGET_LABEL, TOKEN

_KEY = (
    TARGET_LABEL.c.name + literal_column("'='", String) + TARGET_LABEL.c.value
)  # no value: what is grouped by must be the same
_SHUT_OUT = tuple(str(status) for status in AgentStatus if status.shut_out)
_MEMBERS = TARGET_LABEL.join(TARGET, TARGET.c.id == TARGET_LABEL.c.target).join(AGENT, AGENT.c.id == TARGET.c.agent)
_HOLDS = exists().where(TOKEN.c.target == TARGET_LABEL.c.target, TOKEN.c.group == _KEY)
_IDLE = and_(TARGET.c.presence.is_(False), ~_HOLDS)
_IN_FLEET = AGENT.c.status.not_in(_SHUT_OUT)
_COUNTED: Select[tuple[str, int, int]] = (
    select(
        _KEY.label("key"),
        func.count(distinct(TARGET.c.id)).label("members"),
        func.count(distinct(case((_IDLE, TARGET.c.id)))).label("offline"),
    )
    .select_from(_MEMBERS)
    .group_by(_KEY)
)
_ADD = (
    update(GROUP_SIZE)
    .where(GROUP_SIZE.c.key == bindparam("of_key"))
    .values(members=GROUP_SIZE.c.members + bindparam("more"), offline=GROUP_SIZE.c.offline + bindparam("more_offline"))
)
_PRESENT = _COUNTED.where(
    _IN_FLEET, TARGET.c.agent == bindparam("of_agent"), TARGET.c.presence != bindparam("online"), ~_HOLDS
)
_OF_AGENT = _COUNTED.where(TARGET.c.agent == bindparam("of_agent"))
_OF_TARGET = _COUNTED.where(_IN_FLEET, TARGET.c.id == bindparam("of_target"))
_OFFLINE = (
    select(TARGET.c.id)
    .join(AGENT, AGENT.c.id == TARGET.c.agent)
    .where(TARGET.c.id == bindparam("of_target"), TARGET.c.presence.is_(False), _IN_FLEET)
)
_STATUS = select(AGENT.c.status).where(AGENT.c.id == bindparam("of_agent"))


def after_joining(db: Connection, target: str, labels: Mapping[str, str]) -> None:
    """Count a target in with labels it was just given."""
    _count_target(db, target, labels, +1)


def before_leaving(db: Connection, target: str, labels: Mapping[str, str]) -> None:
    """Count a target out of labels it is about to lose."""
    _count_target(db, target, labels, -1)


def before_status(db: Connection, agent: str, *, shut_out: bool) -> None:
    """Count an agent's targets in or out, should its standing change that."""
    before = db.execute(_STATUS, {"of_agent": agent}).scalar()
    if before is None or (before in _SHUT_OUT) is shut_out:
        return
    sign = -1 if shut_out else +1
    rows = db.execute(_OF_AGENT, {"of_agent": agent}).all()
    _add(db, [(row.key, sign * row.members, sign * row.offline) for row in rows])


def before_presence(db: Connection, agent: str, *, online: bool) -> None:
    """Count those of an agent's targets whose presence is about to change, and that hold no token, as offline or not."""
    rows = db.execute(_PRESENT, {"of_agent": agent, "online": online}).all()
    _add(db, [(row.key, 0, -row.members if online else row.members) for row in rows])


def before_tokens(db: Connection, changes: Iterable[Change]) -> None:
    """Count an offline target whose tokens are about to be taken or given back: with a token it is down for that reason."""
    moves: dict[str, dict[str, int]] = {}
    for change in changes:
        row = change.row
        if isinstance(row, TokenRow) and (row.version == 0 or isinstance(change, Delete)):
            moves.setdefault(row.target, {})[row.group] = 1 if isinstance(change, Delete) else -1
    known = Desk.of(db).known(TARGET)
    for target, groups in moves.items():
        view = known.get((target,))
        if view is not None and (view.gone or not view.offline):
            continue
        if db.execute(_OFFLINE, {"of_target": target}).first() is not None:
            mine = {row.key for row in db.execute(_OF_TARGET, {"of_target": target})}
            _add(db, [(key, 0, by) for key, by in groups.items() if key in mine])


def recount(db: Connection) -> Sequence[Drift]:
    """Count everything anew, and repair what was counted wrong; returns what that was."""
    counted = _COUNTED.where(_IN_FLEET).subquery()
    differs = (GROUP_SIZE.c.members != counted.c.members) | (GROUP_SIZE.c.offline != counted.c.offline)
    wrong = (
        select(counted, GROUP_SIZE.c.members.label("was"), GROUP_SIZE.c.offline.label("was_offline"))
        .select_from(counted.outerjoin(GROUP_SIZE, GROUP_SIZE.c.key == counted.c.key))
        .where(GROUP_SIZE.c.key.is_(None) | differs)
    )
    drifts = [
        Drift(
            key=row.key,
            members=row.members,
            members_counted=row.was or 0,
            offline=row.offline,
            offline_counted=row.was_offline or 0,
        )
        for row in db.execute(wrong)
    ]
    gone = (GROUP_SIZE.c.members != 0) | (GROUP_SIZE.c.offline != 0)
    left = select(GROUP_SIZE).where(gone, GROUP_SIZE.c.key.not_in(select(counted.c.key)))
    drifts += [
        Drift(key=row.key, members=0, members_counted=row.members, offline=0, offline_counted=row.offline)
        for row in db.execute(left)
    ]
    if drifts:
        db.execute(
            delete(GROUP_SIZE).where(GROUP_SIZE.c.key == bindparam("of_key")), [{"of_key": d.key} for d in drifts]
        )
        db.execute(insert(GROUP_SIZE), [{"key": d.key, "members": d.members, "offline": d.offline} for d in drifts])
    return sorted(drifts, key=lambda drift: drift.key)


def _count_target(db: Connection, target: str, labels: Mapping[str, str], sign: int) -> None:
    wanted = {f"{name}={value}" for name, value in labels.items()}
    if wanted:
        rows = [row for row in db.execute(_OF_TARGET, {"of_target": target}) if row.key in wanted]
        _add(db, [(row.key, sign, sign * row.offline) for row in rows])


def _add(db: Connection, sums: Iterable[tuple[str, int, int]]) -> None:
    for key, members, offline in sums:
        added = db.execute(_ADD, {"of_key": key, "more": members, "more_offline": offline})
        if added.rowcount != 1:
            db.execute(insert(GROUP_SIZE), {"key": key, "members": members, "offline": offline})
