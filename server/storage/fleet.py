"""Targets as people see them, and what is noted about them beside the planner's own columns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from sys import intern

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    String,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from server.planner.surroundings import AGENT_LABEL, Word
from server.planner.words import AssignmentState
from server.ports import AgentStatus, Announced, Drift, Page, TargetView
from server.ports.querying import EVERYBODY, Query
from server.storage import group_sizes, words
from server.storage.desk import Desk
from server.storage.fleet_query import OF_LAST, Compiled, held_against
from server.storage.tables import AGENT, ASSIGNMENT, TARGET, TARGET_LABEL, UNSETTLED

UNKNOWN = "unknown"

_HIDDEN = {"version", "holder", "settled", "last_campaign", "echoed_epoch", "echoed_n"}
_COLUMNS = (
    *(column for column in TARGET.c if column.name not in _HIDDEN),
    AGENT.c.status,
    ASSIGNMENT.c.campaign,
    ASSIGNMENT.c.state,
    ASSIGNMENT.c.reason_kind,
    ASSIGNMENT.c.reason,
)
_SOURCE = TARGET.join(AGENT, AGENT.c.id == TARGET.c.agent).outerjoin(ASSIGNMENT, OF_LAST)

IN_FLEET = AGENT.c.status.not_in([str(status) for status in AgentStatus if status.shut_out])
_PROGRESS, _NOTED, _INVENTORY, _WAY = (update(TARGET).where(TARGET.c.id == bindparam("of_target")) for _ in range(4))
"""Each a statement of its own, so that what is put off for one keeps together."""
_ANNOUNCED = select(
    TARGET.c.id,
    TARGET.c.agent,
    TARGET.c.hardware,
    TARGET.c.capabilities,
    TARGET.c.encryption_key,
    TARGET.c.endpoint,
    TARGET.c.services_cas,
    TARGET.c.running_product,
    TARGET.c.running_counter,
).where(TARGET.c.id.in_(bindparam("targets", expanding=True)))
_OWN_LABELS = select(TARGET_LABEL).where(
    TARGET_LABEL.c.target.in_(bindparam("targets", expanding=True)),
    TARGET_LABEL.c.name.startswith(AGENT_LABEL, autoescape=True),
)
_FEW = 500
"""Names in one statement."""


class SqlFleet:
    """`server.ports.Fleet` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._desk = Desk.of(connection)
        self._announced: dict[str, Announced | None] = {}

    def page(self, *, cursor: str | None = None, limit: int = 100, query: Query = EVERYBODY) -> Page:
        """Targets by id. A page may be short and yet not the last: one looks at so many targets, and goes on with the next.

        Raises `RefusedError` (`bad-query`) for a query that can't be answered."""
        compiled, rows, following = Compiled(self._db, query), list[RowMapping](), None
        for ids, last, has_more in compiled.windows(cursor, limit):
            fitting = select(*_COLUMNS).select_from(held_against(ids)).where(compiled.condition)
            rows += self._db.execute(fitting.order_by(ids.c.id).limit(limit - len(rows))).mappings().all()
            if len(rows) == limit:
                following = str(rows[-1]["id"])
                break
            following = last if has_more else None
        labels = self._labels([row["id"] for row in rows])
        return Page(rows=[_view(row, labels.get(row["id"], {})) for row in rows], next=following)

    def fitting(self, query: Query = EVERYBODY, *, most: int = 10_000) -> tuple[int, bool]:
        """How many targets fit among the first `most` that come into question, and whether that is all of them."""
        compiled = Compiled(self._db, query)
        ids, _, has_more = next(compiled.windows(None, most))
        counted = select(func.count()).select_from(held_against(ids)).where(compiled.condition)
        return self._db.execute(counted).scalar_one(), not has_more

    def target(self, target_id: str) -> TargetView | None:
        """One target."""
        statement = select(*_COLUMNS).select_from(_SOURCE).where(TARGET.c.id == target_id)
        row = self._db.execute(statement).mappings().first()
        return None if row is None else _view(row, self._labels([target_id]).get(target_id, {}))

    def versions(self) -> Mapping[str, int]:
        """Number of targets per running version ("unknown" for none yet)."""
        statement = select(TARGET.c.running_version, func.count()).group_by(TARGET.c.running_version)
        return {version or UNKNOWN: number for version, number in self._db.execute(statement)}

    def images(self) -> Mapping[str, int]:
        """Number of targets per sha256 of the running image, where that is known."""
        known = TARGET.c.running_sha256.is_not(None)
        statement = select(TARGET.c.running_sha256, func.count().label("number")).where(known)
        return {row.running_sha256: row.number for row in self._db.execute(statement.group_by(TARGET.c.running_sha256))}

    def count(self) -> int:
        """Number of targets."""
        return self._db.execute(select(func.count()).select_from(TARGET)).scalar_one()

    def drifted(self) -> int:
        """Number of targets whose version was changed by hand, by the last campaign that held them."""
        query = select(func.count()).select_from(ASSIGNMENT.join(TARGET, OF_LAST))
        drifted = ASSIGNMENT.c.state == str(AssignmentState.DRIFTED)
        return self._db.execute(query.where(drifted, UNSETTLED)).scalar_one()

    def set_presence(self, agent: str, *, online: bool, at: float) -> None:
        """Note the presence hint for the agent's targets."""
        group_sizes.before_presence(self._db, agent, online=online)
        self._db.execute(update(TARGET).where(TARGET.c.agent == agent).values(presence=online, presence_at=at))

    def forget_presence(self) -> None:
        """Nobody is known to be online: the broker's word for it is about to come anew."""
        self._db.execute(update(TARGET).where(TARGET.c.presence.is_(True)).values(presence=False))
        group_sizes.recount(self._db)

    def set_progress(self, target: str, text: str) -> None:
        """Note the progress hint of a target."""
        self._desk.later(_PROGRESS, {"of_target": target, "progress": text})

    def expect(self, targets: Sequence[str]) -> None:
        """Fetch at once what these targets have announced."""
        missing = [target for target in dict.fromkeys(targets) if target not in self._announced]
        for place in range(0, len(missing), _FEW):
            self._fetch(missing[place : place + _FEW])

    def announced(self, target: str) -> Announced | None:
        """What a target said about itself; None for one that isn't known."""
        if target not in self._announced:
            self._fetch([target])
        return self._announced[target]

    def _fetch(self, targets: Sequence[str]) -> None:
        labels: dict[str, dict[str, str]] = {target: {} for target in targets}
        for row in self._db.execute(_OWN_LABELS, {"targets": list(targets)}):
            labels[row.target][row.name.removeprefix(AGENT_LABEL)] = row.value
        self._announced.update(dict.fromkeys(targets))
        for row in self._db.execute(_ANNOUNCED, {"targets": list(targets)}):
            self._announced[row.id] = Announced(
                agent=row.agent,
                hardware=row.hardware,
                labels=labels[row.id],
                capabilities=tuple(row.capabilities),
                encryption_key=row.encryption_key,
                endpoint=row.endpoint,
                services_cas=tuple(row.services_cas or ()),
                product=row.running_product,
                counter=row.running_counter,
            )

    def note_report(
        self,
        target: str,
        *,
        at: float,
        slot: str,
        previous_version: str | None,
        product: str | None = None,
        counter: int | None = None,
    ) -> None:
        """Note what a stored report says that the planner does not look at; a report ends the progress before it."""
        values = {"last_report_at": at, "running_slot": slot, "previous_version": previous_version, "progress": ""}
        runs = {"running_product": product, "running_counter": counter}
        self._desk.later(_NOTED, {**values, **runs, "of_target": target})
        if (said := self._announced.get(target)) is not None:
            self._announced[target] = replace(said, product=product, counter=counter)
        self._desk.forget(TARGET)

    def set_inventory(
        self,
        target: str,
        *,
        labels: Mapping[str, str],
        capabilities: Sequence[str],
        encryption_key: str | None = None,
    ) -> None:
        """Replace the capabilities, the encryption key and the agent's own labels, kept as `agent.NAME` beside what the server
        gave."""
        before = self.announced(target)
        if before is None:
            return
        self._announced[target] = replace(
            before, labels=dict(labels), capabilities=tuple(capabilities), encryption_key=encryption_key
        )
        if (before.capabilities, before.encryption_key) != (tuple(capabilities), encryption_key):
            told = {"capabilities": list(capabilities), "encryption_key": encryption_key}
            self._desk.later(_INVENTORY, {**told, "of_target": target})
        if before.labels == labels:
            return
        own = (TARGET_LABEL.c.target == target, TARGET_LABEL.c.name.startswith(AGENT_LABEL, autoescape=True))
        group_sizes.before_leaving(self._db, target, {AGENT_LABEL + name: one for name, one in before.labels.items()})
        self._db.execute(delete(TARGET_LABEL).where(*own))
        after = {AGENT_LABEL + name: value for name, value in labels.items()}
        if after:
            rows = [{"target": target, "name": name, "value": value} for name, value in after.items()]
            self._db.execute(insert(TARGET_LABEL), rows)
        group_sizes.after_joining(self._db, target, after)

    def set_way(self, target: str, *, endpoint: str | None, services_cas: Sequence[str]) -> None:
        """Note by which address a target said it comes, and which services CAs it trusts."""
        before = self.announced(target)
        if before is None or (before.endpoint, before.services_cas) == (endpoint, tuple(services_cas)):
            return
        self._announced[target] = replace(before, endpoint=endpoint, services_cas=tuple(services_cas))
        values = {"endpoint": endpoint, "services_cas": list(services_cas)}
        self._desk.later(_WAY, {**values, "of_target": target})

    def put_word(self, word: Word) -> None:
        """Keep a word from outside, in place of one of the same name about the same."""
        words.put(self._db, word)

    def labels(self, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The labels of these names, by target, of all targets that are not shut out and have any."""
        source = TARGET_LABEL.join(TARGET, TARGET.c.id == TARGET_LABEL.c.target).join(
            AGENT, AGENT.c.id == TARGET.c.agent
        )
        wanted = select(TARGET_LABEL).select_from(source).where(TARGET_LABEL.c.name.in_(list(names)), IN_FLEET)
        found: dict[str, dict[str, str]] = {}
        for target, name, value in self._db.execute(wanted):
            found.setdefault(target, {})[intern(name)] = intern(value)
        return found

    def recount_groups(self) -> Sequence[Drift]:
        """Count the members of every group anew, and repair what was counted wrong; returns what that was."""
        return group_sizes.recount(self._db)

    def endpoints(self) -> Mapping[str, int]:
        """Number of targets that are not shut out, by the address they said they use (empty: none said yet)."""
        endpoint = func.coalesce(TARGET.c.endpoint, literal_column("''"))
        query = select(endpoint, func.count()).select_from(_SOURCE).where(IN_FLEET).group_by(endpoint)
        return {name: number for name, number in self._db.execute(query)}  # noqa: C416 - rows are no pairs to mypy

    def without_services_ca(self, fingerprint: str) -> int:
        """Number of targets that are not shut out and have not said that they trust this services CA."""
        said = func.coalesce(cast(TARGET.c.services_cas, String), "")
        silent = said.not_like(f'%"{fingerprint}"%')
        query = select(func.count()).select_from(TARGET.join(AGENT, AGENT.c.id == TARGET.c.agent))
        return self._db.execute(query.where(IN_FLEET, silent)).scalar_one()

    def _labels(self, targets: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        if targets:
            wanted = select(TARGET_LABEL).where(TARGET_LABEL.c.target.in_(list(targets))).order_by(TARGET_LABEL.c.name)
            for row in self._db.execute(wanted):
                found.setdefault(row.target, {})[row.name] = row.value
        return found


def labelled(name: str, value: str) -> ColumnElement[bool]:
    """The condition that a target carries this label."""
    own = (TARGET_LABEL.c.name == name, TARGET_LABEL.c.value == value)
    return TARGET.c.id.in_(select(TARGET_LABEL.c.target).where(*own))


def _view(row: RowMapping, labels: Mapping[str, str]) -> TargetView:
    values = dict(row)
    values["status"] = AgentStatus(values["status"])
    values["capabilities"] = tuple(values["capabilities"])
    values["services_cas"] = tuple(values["services_cas"] or ())
    if values["campaign"] is None:
        values.update(reason_kind="none", reason="")
    else:
        values["state"] = AssignmentState(values["state"])
    return TargetView(labels=labels, **values)
