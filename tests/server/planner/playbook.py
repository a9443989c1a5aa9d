"""A fleet and a shell small enough to read: rows in dicts, changes by compare-and-set, commands answered at once.

It does what the real shell does and nothing more: loads what the footprint says, applies all changes or none, and answers
`Admit`, `Recall` and `SendOrder`. Tests feed events and look at rows and commands. Time is a number that tests set.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.errors import ConflictError
from server.planner.ask_events import CHECKS, Check
from server.planner.cohorts import split
from server.planner.commands import (
    Admit,
    Capture,
    Command,
    Consult,
    Displace,
    Doubt,
    GrantPermit,
    PrepareDeltas,
    Recall,
    Record,
    SendOrder,
    TellWait,
)
from server.planner.dealing import deal
from server.planner.decision import Decision, Delete
from server.planner.download_line import NextInLine, PlaceFree, line_of
from server.planner.downloads import groups_of
from server.planner.drift import STARTED
from server.planner.events import (
    Asked,
    AssignmentDue,
    CampaignDue,
    Candidate,
    Cleared,
    CohortDrained,
    Commanded,
    DeltasReady,
    Displaced,
    Doubted,
    Event,
    LeftOut,
    Ordered,
    OrderImpossible,
    Recalled,
    Reported,
    TakenBack,
)
from server.planner.explain import Explanation, explain
from server.planner.gate_rows import BlockRow
from server.planner.gateways import Path, named, path_groups, path_of
from server.planner.grouping import leaves_first
from server.planner.revision_rows import RevisionRow
from server.planner.rows import (
    AssignmentRow,
    CampaignRow,
    CohortRow,
    GroupRow,
    ReleaseKey,
    Row,
    TargetRow,
    TokenRow,
    campaign_group,
    key_of,
)
from server.planner.slices import Footprint, Slice
from server.planner.states import LIVE, WAITING
from server.planner.step import footprint, step
from server.planner.strata import keys
from server.planner.strategy import CohortPolicy, GatePolicy, Strategy
from server.planner.surroundings import (
    NOWHERE,
    BehindRow,
    Evidence,
    GroupSize,
    Inquiry,
    Neighbour,
    Peers,
    Predecessor,
    Rival,
    Surroundings,
    Word,
    cohort_key,
)
from server.planner.words import AssignmentState, CampaignState, TokenKind, Verb

OLD = "1" * 64
NEW = "2" * 64
STEP = "5" * 64
OTHER = "9" * 64
VERSIONS = {OLD: "1.0", NEW: "2.0", STEP: "1.5", OTHER: "0.9"}
COUNTERS = {"1.0": 0, "1.5": 1, "2.0": 2}
"""The counters that releases of these versions have where they are compared."""
RELEASE = ReleaseKey(product="cam", version="2.0", counter=2, sha256=NEW)
ON_THE_WAY = ReleaseKey(product="cam", version="1.5", counter=1, sha256=STEP)
"""What `Board.through` puts between OLD and NEW."""
CANARY_THEN_REST = (
    CohortPolicy(name="canary", count=2, gate=GatePolicy(min_verified=2)),
    CohortPolicy(name="rest"),
)
PATIENCE_S, HORIZON_S, HEALTHY_S, ORDER_TTL_S, RETRY_S = 100, 50, 10, 10_000, 5


def strategy(**values: object) -> Strategy:
    """Two canaries, then the rest; times short and all different."""
    given = {
        "name": "test",
        "cohorts": CANARY_THEN_REST,
        "patience_s": PATIENCE_S,
        "horizon_s": HORIZON_S,
        "healthy_s": HEALTHY_S,
        "order_ttl_s": ORDER_TTL_S,
        "retry_s": RETRY_S,
        "trial_s": 20,
        "permit_valid_s": 15,
        **values,
    }
    return Strategy(**given)


class Board:
    """The shell and its store. `now` is the time; `said` every command so far; `log` every event with its decision."""

    def __init__(self, *, checks: tuple[Check, ...] = CHECKS, page: int | None = None) -> None:
        self.rows: dict[tuple[str, ...], Row] = {}
        self.now = 1000.0
        self.said: list[Command] = []
        self.log: list[tuple[Slice, Event, Decision]] = []
        self.observers: list[Callable[[Slice, Event, Decision], None]] = []
        self.impossible: set[str] = set()
        self.pathless: set[str] = set()
        self.through = False
        self.suspects: set[str] = set()
        self.makes_deltas = True
        self.loses_pages = False
        self.loses_recalls = False
        self.loses_orders = False
        self.checks = checks
        self._made: list[str] = []
        self.words: list[Word] = []
        self.evidence: dict[tuple[str, str], Evidence] = {}
        """By campaign and target, what was asked for last."""
        self.noters: list[Callable[[tuple[str, str], Evidence | Inquiry], None]] = []
        self.inquiries: dict[tuple[str, str], Inquiry] = {}
        """By name and key."""
        self._page = page
        self._orders = 0
        self._nonces = 0

    # Making the world

    def add_target(self, name: str, *, runs: str = OLD, groups: Iterable[str] = (), **values: object) -> None:
        row = TargetRow(
            id=name,
            agent=name,
            hardware="board",
            running_version=VERSIONS[runs],
            running_sha256=runs,
            groups=tuple(groups),
            version=1,
            **{"rollback_available": True, **values},
        )
        self.rows[key_of(row)] = row

    def add_campaign(
        self, name: str, targets: Iterable[str], plan: Strategy | None = None, *, seed: int = 7, **values: object
    ) -> None:
        plan = plan or strategy()
        campaign = CampaignRow(
            id=name,
            change_id=f"change-{name}",
            state=CampaignState.DRAFT,
            release=RELEASE,
            strategy=plan,
            seed=seed,
            version=1,
        )
        campaign = replace(campaign, **values)
        cohorts, assignments = split(name, targets, plan, seed)
        cohorts, assignments = deal(
            plan, cohorts, assignments, {row.target: self.traits(row.target) for row in assignments}
        )
        self._made.append(name)
        for row in (campaign, *cohorts, *assignments):
            self.rows[key_of(row)] = replace(row, version=1)

    def traits(self, target: str) -> dict[str, str]:
        """What a target is dealt by: its hardware, its version, and its groups as labels."""
        row = self.target(target)
        labels = dict(group.split("=", 1) for group in row.groups)
        return {**labels, "hardware": row.hardware, "version": row.running_version or "unknown"}

    def put_leaves_first(self, name: str = "c") -> None:
        """What the shell does when it makes a campaign whose gateways go last."""
        if not self.campaign(name).strategy.leaves_first:
            return
        rows = self.assignments(name)
        targets = {row.target: self._with_path(self.target(row.target)) for row in rows}
        paths = {target: Path(gateways=row.gateways) for target, row in targets.items()}
        dealt = leaves_first(name, self.cohorts(name), rows, paths)
        traits = {row.target: self.traits(row.target) for row in rows}
        again = deal(self.campaign(name).strategy, dealt.cohorts, dealt.assignments, traits)
        for row in (*again[0], *again[1], *dealt.behind):
            self.rows[key_of(row)] = replace(row, version=1)

    # Looking

    def campaign(self, name: str = "c") -> CampaignRow:
        row = self.rows["campaign", name]
        assert isinstance(row, CampaignRow)
        return row

    def target(self, name: str) -> TargetRow:
        row = self.rows["target", name]
        assert isinstance(row, TargetRow)
        return row

    def assignment(self, target: str, campaign: str = "c") -> AssignmentRow:
        row = self.rows["assignment", campaign, target]
        assert isinstance(row, AssignmentRow)
        return row

    def state(self, target: str, campaign: str = "c") -> AssignmentState:
        return self.assignment(target, campaign).state

    def cohorts(self, campaign: str = "c") -> list[CohortRow]:
        rows = [row for row in self.rows.values() if isinstance(row, CohortRow) and row.campaign == campaign]
        return sorted(rows, key=lambda row: row.index)

    def cohort(self, name: str, campaign: str = "c") -> CohortRow:
        return next(row for row in self.cohorts(campaign) if row.name == name)

    def members(self, cohort: str, campaign: str = "c") -> list[str]:
        """Targets of a cohort by rank."""
        index = self.cohort(cohort, campaign).index
        rows = [row for row in self.assignments(campaign) if row.cohort == index]
        return [row.target for row in sorted(rows, key=lambda row: row.rank)]

    def assignments(self, campaign: str | None = None) -> list[AssignmentRow]:
        rows = [row for row in self.rows.values() if isinstance(row, AssignmentRow)]
        return [row for row in rows if campaign in (None, row.campaign)]

    def tokens(self, group: str | None = None) -> list[TokenRow]:
        return [row for row in self.rows.values() if isinstance(row, TokenRow) and group in (None, row.group)]

    def group(self, key: str) -> GroupRow:
        row = self.rows["group", key]
        assert isinstance(row, GroupRow)
        return row

    def revisions(self, campaign: str = "c") -> list[RevisionRow]:
        rows = [row for row in self.rows.values() if isinstance(row, RevisionRow) and row.campaign == campaign]
        return sorted(rows, key=lambda row: row.number)

    def proposal(self, campaign: str = "c") -> RevisionRow | None:
        return next((row for row in self.revisions(campaign) if row.state == "proposed"), None)

    def records(self, kind: str) -> list[Record]:
        return [command for command in self.said if isinstance(command, Record) and command.kind == kind]

    def orders(self, target: str) -> list[Action]:
        return [command.action for command in self.said if isinstance(command, SendOrder) and command.target == target]

    def explain(self, target: str, campaign: str | None = "c") -> Explanation:
        return explain(self.load(Footprint(campaign=campaign, target=target)), self.now)

    # What the shell does

    def load(self, wanted: Footprint) -> Slice:
        target = self.rows.get(("target", wanted.target or ""))
        assert target is None or isinstance(target, TargetRow)
        target = None if target is None else self._with_path(target)
        name = wanted.campaign or (target.holder if target else None)
        campaign = self.rows.get(("campaign", name or ""))
        assert campaign is None or isinstance(campaign, CampaignRow)
        assignment = self.rows.get(("assignment", name or "", wanted.target or ""))
        assert assignment is None or isinstance(assignment, AssignmentRow)
        tokens = [token for token in self.tokens() if token.target == wanted.target]
        keys = {
            *((*target.groups, *path_groups(target)) if target else ()),
            campaign_group(name or ""),
            *(token.group for token in tokens),
            *(groups_of(target, name or "") if target else ()),
        }
        groups = [row for row in self.rows.values() if isinstance(row, GroupRow) and row.key in keys]
        return Slice(
            campaign=campaign,
            cohorts=tuple(self.cohorts(name)) if name else (),
            target=target,
            assignment=assignment,
            groups=tuple(sorted(groups, key=lambda group: group.key)) if target else (),
            tokens=tuple(sorted(tokens, key=lambda token: token.group)),
            proposal=None if target else self.proposal(name or ""),
            around=NOWHERE if target is None else self._around(target, campaign, assignment),
            blocks=self._blocks(campaign, assignment),
        )

    def _around(
        self, target: TargetRow, campaign: CampaignRow | None, assignment: AssignmentRow | None
    ) -> Surroundings:
        fleet = [row for row in self.rows.values() if isinstance(row, TargetRow) and not row.gone]
        sizes = tuple(self._size(key, fleet) for key in target.groups)
        if campaign is None or assignment is None:
            return Surroundings(sizes=sizes)
        plan = campaign.strategy
        doubted = assignment.via is not None and assignment.via.version in self.suspects
        behind = [row for row in self.rows.values() if isinstance(row, BehindRow) and row.campaign == campaign.id]
        before = [self.rows.get(("campaign", policy.campaign)) for policy in plan.after]
        compared = [policy.by for policy in (plan.skew, plan.together) if policy is not None]
        found = [key for key in target.groups if key.partition("=")[0] in compared]
        return Surroundings(
            sizes=sizes,
            behind=tuple(row for row in behind if row.gateway in (target.id, *assignment.gateways)),
            before=tuple(
                Predecessor(id=row.id, state=row.state, changed_at=row.changed_at)
                for row in before
                if isinstance(row, CampaignRow)
            ),
            gateways=tuple(self._neighbour(row, campaign.id) for row in fleet if row.id in target.gateways),
            peers=tuple(
                Peers(key=key, members=tuple(self._neighbour(row, campaign.id) for row in fleet if key in row.groups))
                for key in found
            ),
            counters=tuple(sorted(COUNTERS.values())) if plan.skew else (),
            words=tuple(word for word in self.words if word.key in self._keys(target, assignment)),
            inquiries=tuple(one for one in self.inquiries.values() if one.key in self._keys(target, assignment)),
            evidence=self.evidence.get((campaign.id, target.id)),
            rivals=self._rivals(target, campaign) if assignment.state is AssignmentState.PLANNED else (),
            made_at=float(self._made.index(campaign.id)),
            step_is_suspect=doubted,
            younger=self._younger(campaign, target.id) if plan.on_drift == "correct" else None,
        )

    def _keys(self, target: TargetRow, assignment: AssignmentRow) -> tuple[str, ...]:
        cohort = self.cohorts(assignment.campaign)[assignment.cohort].name
        return target.id, cohort_key(assignment.campaign, cohort), *target.groups

    def _rivals(self, target: TargetRow, campaign: CampaignRow) -> tuple[Rival, ...]:
        found = []
        for row in self.assignments():
            other = self.campaign(row.campaign)
            is_open = row.state in (AssignmentState.PLANNED, *WAITING) and other.state in LIVE
            if row.target == target.id and other.id != campaign.id and is_open:
                rival = Rival(
                    campaign=other.id,
                    campaign_state=other.state,
                    priority=other.strategy.priority,
                    made_at=float(self._made.index(other.id)),
                    product=other.release.product,
                    counter=other.release.counter,
                    state=row.state,
                    waits=row.state is AssignmentState.PLANNED and row.wake_at is not None,
                    goes_back=row.action is Action.ROLLBACK,
                    undoes=other.undoes is not None,
                    suspect=bool(other.suspect),
                )
                found.append(rival)
        return tuple(found)

    def _younger(self, campaign: CampaignRow, target: str) -> str | None:
        """Campaigns are as old as the order in which they were added."""
        rows = [row for row in self.rows.values() if isinstance(row, CampaignRow)]
        later = rows[[row.id for row in rows].index(campaign.id) + 1 :]
        found = [row.id for row in later if ("assignment", row.id, target) in self.rows and row.state in STARTED]
        return found[-1] if found else None

    def _size(self, key: str, fleet: list[TargetRow]) -> GroupSize:
        held = {token.target for token in self.tokens(key)}
        members = [row for row in fleet if key in row.groups]
        offline = sum(row.offline and row.id not in held for row in members)
        return GroupSize(key=key, members=len(members), offline=offline)

    def _neighbour(self, row: TargetRow, campaign: str) -> Neighbour:
        part = self.rows.get(("assignment", campaign, row.id))
        mine = {token.kind for token in self.tokens() if token.target == row.id}
        return Neighbour(
            id=row.id,
            product=row.product,
            version=row.running_version,
            counter=COUNTERS.get(row.running_version or ""),
            groups=row.groups,
            in_flight=TokenKind.IN_FLIGHT in mine,
            state=part.state if isinstance(part, AssignmentRow) else None,
            reason_kind=part.reason_kind if isinstance(part, AssignmentRow) else "none",
            is_late=isinstance(part, AssignmentRow) and self.cohorts(campaign)[part.cohort].name == "late",
        )

    def _with_path(self, target: TargetRow) -> TargetRow:
        """The target with what its labels and others' say of its path."""
        fleet = [row for row in self.rows.values() if isinstance(row, TargetRow)]
        labels = {row.id: dict(key.split("=", 1) for key in row.groups if "=" in key) for row in fleet}
        path = path_of(target.id, lambda names: {name: named(labels.get(name, {})) for name in names})
        gates = {gateway for own in labels.values() for gateway in named(own)}
        return replace(target, gateways=path.gateways, path_fault=path.fault, is_gateway=target.id in gates)

    def _blocks(self, campaign: CampaignRow | None, assignment: AssignmentRow | None) -> tuple[BlockRow, ...]:
        if campaign is None or assignment is None:
            return ()
        wanted = keys(campaign.strategy, assignment, campaign.cohort)
        rows = [self.rows.get(("block", campaign.id, str(cohort), *where)) for cohort, *where in wanted]
        return tuple(row for row in rows if isinstance(row, BlockRow))

    def feed(self, event: Event) -> list[Command]:
        """Decide, store, and answer what the decision asks for; returns this event's own commands."""
        loaded, decision = self.decide(event)
        self.log.append((loaded, event, decision))
        for observe in self.observers:
            observe(loaded, event, decision)
        self.said += decision.commands
        for command in decision.commands:
            self._obey(command)
        return list(decision.commands)

    def decide(self, event: Event) -> tuple[Slice, Decision]:
        """Decide and store, and obey nothing."""
        loaded = self.load(footprint(event))
        decision = step(loaded, event, checks=self.checks)
        self._commit(decision)
        return loaded, decision

    def _commit(self, decision: Decision) -> None:
        rows = dict(self.rows)
        for change in decision.changes:
            key = key_of(change.row)
            stored = rows.get(key)
            if (stored.version if stored else 0) != change.row.version:
                raise ConflictError(f"{key} is at another version")
            if isinstance(change, Delete):
                del rows[key]
            else:
                rows[key] = replace(change.row, version=change.row.version + 1)
        self.rows = rows

    def _obey(self, command: Command) -> None:
        match command:
            case Admit() if not self.loses_pages:
                self._admit(command)
            case Capture():
                self.note((command.campaign, command.target), Evidence(state="waiting", asked_at=self.now))
            case Consult():
                about = {"name": command.name, "key": command.key}
                self.note((command.name, command.key), Inquiry(**about, state="waiting", next_at=self.now))
            case PrepareDeltas() if self.makes_deltas:
                self.deltas_ready(command.campaign)
            case Displace():
                values = {"target": command.target, "by": command.by, "over": command.over}
                self.feed(Displaced(campaign=command.campaign, at=self.now, **values))
            case Recall() if not self.loses_recalls:
                self._recall(command)
            case NextInLine():
                self._next_in_line(command)
            case Doubt():
                self.doubt(command.reason)
            case SendOrder() if not self.loses_orders:
                self._sign(command)
            case _:
                pass

    def note(self, key: tuple[str, str], row: Evidence | Inquiry) -> None:
        """Keep what became of a question that the shell asks."""
        (self.evidence if isinstance(row, Evidence) else self.inquiries)[key] = row  # type: ignore[index]
        for tell in self.noters:
            tell(key, row)

    def _admit(self, command: Admit) -> None:
        limit = min(command.limit, self._page or command.limit)
        rows = [
            row
            for row in self.assignments(command.campaign)
            if row.cohort == command.cohort and row.state is AssignmentState.PLANNED and row.wake_at is None
        ]
        found = sorted(rows, key=lambda row: row.rank)[:limit]
        for row in found:
            self.feed(Candidate(campaign=command.campaign, target=row.target, at=self.now))
        if len(found) < limit:
            self.feed(CohortDrained(campaign=command.campaign, cohort=command.cohort, at=self.now))

    def _next_in_line(self, command: NextInLine) -> None:
        admitting = (CampaignState.RUNNING, CampaignState.WATCHING)
        line = [row for row in self.tokens(line_of(command.group)) if self.campaign(row.campaign).state in admitting]
        if line:
            row = min(line, key=lambda row: (row.since, row.target))
            self.feed(PlaceFree(campaign=row.campaign, target=row.target, group=command.group, at=self.now))

    def _recall(self, command: Recall) -> None:
        found = [
            row
            for row in self.assignments(command.campaign)
            if row.state in command.states and row.action is Action.INSTALL and command.cohort in (None, row.cohort)
        ]
        for row in sorted(found, key=lambda row: row.rank)[: self._page]:
            values = {"action": command.action, "reason_kind": command.reason_kind, "reason": command.reason}
            self.feed(Recalled(campaign=command.campaign, target=row.target, at=self.now, **values))
            after = self.assignment(row.target, command.campaign)
            is_there = after.state in command.states and after.action is Action.INSTALL
            assert not is_there, "a page that makes no progress"

    def _sign(self, command: SendOrder) -> None:
        if command.target in self.impossible | self.pathless:
            why = {"reason_kind": "wrong-hardware", "reason": "The release does not fit this hardware."}
            if command.target in self.pathless:
                why = {"reason_kind": "no-path", "reason": "2.0 asks for 1.5 first, which was withdrawn."}
            self.feed(OrderImpossible(campaign=command.campaign, target=command.target, at=self.now, **why))
            return
        self._orders += 1
        digest = f"{self._orders:064x}"
        is_far = command.action is Action.INSTALL and self.target(command.target).running_sha256 == OLD
        via = ON_THE_WAY if self.through and is_far else None
        self.feed(Ordered(campaign=command.campaign, target=command.target, order_hash=digest, at=self.now, via=via))

    def deltas_ready(self, campaign: str = "c") -> None:
        """The last delta is made, or never will be."""
        self.feed(DeltasReady(campaign=campaign, at=self.now))

    # What people, targets and time do

    def tell(self, verb: Verb, campaign: str = "c", reason: str = "", *, by: str = "ann") -> list[Command]:
        return self.feed(Commanded(campaign=campaign, verb=verb, by=by, reason=reason, at=self.now))

    def take_back(self, *, target: str | None = None, cohort: str | None = None, campaign: str = "c") -> list[Command]:
        said = {"by": "ann", "reason": "it hums", "at": self.now}
        return self.feed(TakenBack(campaign=campaign, target=target, cohort=cohort, **said))

    def doubt(self, reason: str = "it hums") -> None:
        """The release, the same for all campaigns here, becomes suspect."""
        for row in [row for row in self.rows.values() if isinstance(row, CampaignRow)]:
            if not row.suspect:
                self.feed(Doubted(campaign=row.id, reason=reason, at=self.now))

    def clear(self, campaign: str = "c") -> None:
        self.feed(Cleared(campaign=campaign, by="ann", reason="the fan was broken", at=self.now))

    def skip(self, target: str, campaign: str = "c") -> list[Command]:
        return self.feed(LeftOut(campaign=campaign, target=target, by="ann", reason="in repair", at=self.now))

    def start(self, campaign: str = "c") -> None:
        self.tell(Verb.START, campaign)

    def report(self, target: str, state: str, *, runs: str | None = None, **values: object) -> list[Command]:
        """A signed report about the current order, running what it ran before unless told."""
        row = self.target(target)
        current = self.rows.get(("assignment", row.holder or "", target))
        given = {
            "order_hash": current.order_hash if isinstance(current, AssignmentRow) else None,
            "running_sha256": runs or row.running_sha256,
            "running_version": VERSIONS.get(runs or row.running_sha256 or ""),
            "rollback_available": row.rollback_available,
            "reason_kind": "none",
            "reason": "",
            **values,
        }
        return self.feed(Reported(target=target, state=state, at=self.now, **given))

    def ask(
        self, target: str, *, nonce: str | None = None, order_hash: str | None = None
    ) -> GrantPermit | TellWait | None:
        """A signed ask about the current order; returns the answer."""
        self._nonces += 1
        row = self.target(target)
        current = self.rows.get(("assignment", row.holder or "", target))
        digest = order_hash or (current.order_hash if isinstance(current, AssignmentRow) else None) or "0" * 64
        said = self.feed(
            Asked(target=target, order_hash=digest, boot_id="boot", nonce=nonce or f"n{self._nonces}", at=self.now)
        )
        answers = [command for command in said if isinstance(command, GrantPermit | TellWait)]
        assert len(answers) <= 1
        return answers[0] if answers else None

    def due(self) -> bool:
        """Feed every deadline that has passed, once each; returns whether there was any."""
        rows = [row for row in self.rows.values() if isinstance(row, CampaignRow | AssignmentRow)]
        passed = [row for row in rows if row.wake_at is not None and row.wake_at <= self.now]
        for row in sorted(passed, key=lambda row: (row.wake_at or 0, key_of(row))):
            if isinstance(row, CampaignRow):
                self.feed(CampaignDue(campaign=row.id, at=self.now))
            else:
                self.feed(AssignmentDue(campaign=row.campaign, target=row.target, at=self.now))
        return bool(passed)

    def wait(self, seconds: float) -> None:
        """Let time pass, stopping at every deadline on the way."""
        end = self.now + seconds
        for _ in range(100_000):
            wakes = [row.wake_at for row in self.rows.values() if isinstance(row, CampaignRow | AssignmentRow)]
            first = min((wake for wake in wakes if wake is not None), default=end + 1)
            if first > end:
                self.now = end
                return
            self.now = max(self.now, first)
            self.due()
        raise AssertionError("the deadlines never end")

    # Whole stories

    def stage(self, *targets: str) -> None:
        for target in targets:
            for word in ("ordered", "downloading", "staged"):
                self.report(target, word)

    def activate(self, *targets: str) -> None:
        """Stage, ask, and get a permit."""
        for target in targets:
            self.stage(target)
            answer = self.ask(target)
            assert isinstance(answer, GrantPermit), answer
            self.report(target, "activating")

    def commit(self, *targets: str) -> None:
        """From wherever it is: activate, boot the new slot on trial, commit what was ordered."""
        for target in targets:
            self.activate(target)
            via = self.assignment(target, self.target(target).holder or "").via
            self.report(target, "trial", runs=via.sha256 if via else NEW)
            self.report(target, "committed", runs=via.sha256 if via else NEW)

    def verify(self, *targets: str) -> None:
        self.commit(*targets)
        self.wait(HEALTHY_S)

    def fall_back(self, target: str) -> None:
        self.activate(target)
        self.report(target, "trial", runs=NEW)
        self.report(target, "fell_back", runs=OLD, reason_kind="health-failed", reason="The health check answers 500.")

    def tally(self, campaign: str = "c") -> Counter[AssignmentState]:
        return Counter(row.state for row in self.assignments(campaign))


def fleet(
    count: int = 6,
    plan: Strategy | None = None,
    *,
    groups: Iterable[str] = (),
    through: bool = False,
    **options: object,
) -> Board:
    """A board with targets t0… and campaign `c` over all of them, started; `through`: 1.0 has to pass 1.5."""
    board = Board(**options)
    board.through = through
    names = [f"t{index}" for index in range(count)]
    for name in names:
        board.add_target(name, groups=groups)
    board.add_campaign("c", names, plan)
    board.start()
    return board
