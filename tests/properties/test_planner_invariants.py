"""Random fleets, campaigns, people, faults and clocks against the planner; what must hold whatever happens.

Devices here lie, repeat themselves, answer late and fall silent; the shell loses commands as a crash would; and still no
budget is exceeded by an admission, no pause grants a permit, no counter drifts, and nobody is lost.
"""

import copy
import dataclasses
import pickle
from collections import Counter
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from firmware.errors import RefusedError
from firmware.protocol.words import Action, AgentState
from server.errors import NotFoundError
from server.planner.commands import GrantPermit, Record
from server.planner.decision import Decision
from server.planner.events import CampaignDue, Deselected, Event, GateAnswered, Reported, Reselected
from server.planner.gates import judge
from server.planner.rows import AssignmentRow, CampaignRow, GroupRow, TargetRow, campaign_group
from server.planner.slices import Footprint, Slice
from server.planner.states import FAILURES, GOING_BACK, IN_FLIGHT, LIVE, NEUTRAL, UNDECIDED, WAITING, TransitionError
from server.planner.step import step
from server.planner.strategy import (
    AfterPolicy,
    BudgetPolicy,
    CohortPolicy,
    DeltaPolicy,
    DownloadPolicy,
    EmergencyPolicy,
    GatePolicy,
    PreconditionPolicy,
    SkewPolicy,
    Strategy,
    TogetherPolicy,
    VerifyPolicy,
)
from server.planner.surroundings import BehindRow, Evidence, Inquiry, Word
from server.planner.words import AssignmentState, CampaignState, CohortState, GateVerdict, TokenKind, Verb
from tests.server.planner.playbook import (
    HEALTHY_S,
    HORIZON_S,
    NEW,
    OLD,
    ORDER_TTL_S,
    OTHER,
    PATIENCE_S,
    STEP,
    Board,
    strategy,
)

A, C = AssignmentState, CampaignState
Note = tuple[tuple[str, str], Evidence | Inquiry]
TARGETS = [f"t{index}" for index in range(7)]
CAMPAIGNS = ("c", "d")
MOST_ROWS = 26

targets = st.sampled_from(TARGETS)
gates = st.one_of(
    st.builds(GatePolicy, min_verified=st.integers(1, 2)),
    st.builds(GatePolicy, kind=st.just("share"), max_failure_rate=st.sampled_from([0.0, 0.3, 1.0])),
    st.builds(
        GatePolicy,
        kind=st.just("rate"),
        max_failure_rate=st.sampled_from([0.6, 0.8]),
        by=st.sampled_from([(), ("rack",), ("hardware", "rack")]),
        small_cohort=st.sampled_from(["all", "hold"]),
        accept_after_s=st.sampled_from([None, HORIZON_S]),
        accept_by=st.just("ann"),
    ),
    st.just(GatePolicy(kind="external", name="board")),
)
cohort_lists = st.lists(st.tuples(st.sampled_from([1, 2, 3]), gates), max_size=2).flatmap(
    lambda sized: gates.map(
        lambda last: (
            *(CohortPolicy(name=f"k{index}", count=count, gate=gate) for index, (count, gate) in enumerate(sized)),
            CohortPolicy(name="rest", gate=last),
        )
    )
)
labels = st.sampled_from(["site", "rack"])
budget_lists = st.lists(
    st.one_of(
        st.builds(BudgetPolicy, by=st.just("campaign"), limit=st.integers(1, 3)),
        st.builds(BudgetPolicy, by=labels, limit=st.integers(1, 3), offline_counts=st.booleans()),
        st.builds(BudgetPolicy, by=labels, percent=st.sampled_from([30, 50, 100]), at_least=st.integers(0, 1)),
        st.builds(BudgetPolicy, by=labels, keep=st.integers(1, 3), offline_counts=st.booleans()),
    ),
    max_size=3,
    unique_by=lambda budget: budget.by,
).map(tuple)
strategies = st.builds(
    strategy,
    cohorts=cohort_lists,
    budgets=budget_lists,
    max_attempts=st.integers(1, 2),
    late_max_failures=st.integers(0, 2),
    on_failure=st.sampled_from(["pause", "abort", "rollback"]),
    on_suspect=st.sampled_from(["hold", "warn"]),
    leaves_first=st.booleans(),
    after=st.sampled_from([(), (), (AfterPolicy(campaign="d", state="watching", soak_s=HEALTHY_S),)]),
    skew=st.none() | st.builds(SkewPolicy, by=st.just("rack"), most=st.integers(1, 2)),
    together=st.none() | st.builds(TogetherPolicy, by=labels),
    verify=st.sampled_from([None, None, VerifyPolicy(name="ping", within_s=HORIZON_S, when_missing="fail")]),
    stage_ahead=st.integers(0, 2),
    preconditions=st.sampled_from(
        [
            (),
            (),
            (PreconditionPolicy(name="check", per="site", max_age_s=HORIZON_S),),
            (PreconditionPolicy(evidence=("agent",), within_s=HEALTHY_S, when_missing="proceed"),),
            (PreconditionPolicy(evidence=("agent",), within_s=HEALTHY_S),),
        ]
    ),
    emergency=st.sampled_from([False, False, True]),
    urgency=st.builds(EmergencyPolicy, reserve_s=st.sampled_from([0, HEALTHY_S, 3 * HORIZON_S])),
    downloads=st.lists(
        st.builds(DownloadPolicy, by=st.sampled_from(["campaign", "site", "rack"]), limit=st.integers(1, 2)),
        max_size=2,
        unique_by=lambda policy: policy.by,
    ).map(tuple),
    deltas=st.builds(DeltaPolicy, wait_s=st.sampled_from([0, 5, HORIZON_S]), at_most=st.integers(0, 1)),
)
images = st.sampled_from([OLD, NEW, STEP, OTHER])


class PlannerMachine(RuleBasedStateMachine):
    """Two campaigns over overlapping targets that share sites and racks."""

    @initialize(
        first=strategies,
        second=strategies,
        page=st.sampled_from([1, 2, 50]),
        worked=st.integers(0, 5),
        through=st.booleans(),
        gateways=st.dictionaries(targets, targets, max_size=4),
    )
    def make(
        self,
        first: Strategy,
        second: Strategy,
        page: int,
        worked: int,
        through: bool,
        gateways: dict[str, str],
    ) -> None:
        self.board = Board(page=page)
        self.board.through = through
        self.board.pathless = {TARGETS[6]}
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.hashes: list[str] = []
        self.history: list[Event | TargetRow | Word | Note] = []
        self.board.noters.append(lambda key, row: self.history.append((key, row)))
        self.board.observers += [self.check_decision, lambda _loaded, event, _decision: self.history.append(event)]
        for index, name in enumerate(TARGETS):
            groups = (f"site={index % 2}", f"rack={index % 3}")
            if name in gateways:
                groups = (*groups, f"gateway={gateways[name]}")
            self.board.add_target(name, groups=groups, rollback_available=index != 3)
        self.board.add_campaign("c", TARGETS[:5], first)
        self.board.add_campaign("d", TARGETS[3:], dataclasses.replace(second, after=()))
        for name in CAMPAIGNS:
            self.board.put_leaves_first(name)
        self.snapshot = self.take_snapshot()
        self.sizes = {(row.campaign, row.index): row.size for name in CAMPAIGNS for row in self.board.cohorts(name)}
        self.board.start("c")
        self.board.start("d")
        for _ in range(worked):
            self.all_work(2)

    # What happens

    @rule(
        verb=st.sampled_from([Verb.START, *([Verb.PAUSE, Verb.RESUME] * 3), Verb.ABORT, Verb.ROLLBACK]),
        campaign=st.sampled_from(CAMPAIGNS),
    )
    def tell(self, verb: Verb, campaign: str) -> None:
        before = self.board.rows
        try:
            self.board.tell(verb, campaign)
        except TransitionError:
            assert self.board.rows is before

    @rule(name=targets, campaign=st.sampled_from(CAMPAIGNS))
    def take_one_back(self, name: str, campaign: str) -> None:
        self.try_to(lambda: self.board.take_back(target=name, campaign=campaign))

    @rule(index=st.integers(0, 3), campaign=st.sampled_from(CAMPAIGNS))
    def take_a_cohort_back(self, index: int, campaign: str) -> None:
        cohorts = self.board.cohorts(campaign)
        name = cohorts[min(index, len(cohorts) - 1)].name
        self.try_to(lambda: self.board.take_back(cohort=name, campaign=campaign))

    @rule(name=targets, campaign=st.sampled_from(CAMPAIGNS))
    def leave_one_out(self, name: str, campaign: str) -> None:
        self.try_to(lambda: self.board.skip(name, campaign))

    @rule(name=targets, campaign=st.sampled_from(CAMPAIGNS), again=st.booleans())
    def selection_changes(self, name: str, campaign: str, again: bool) -> None:
        """A target isn't selected any more, or is again: it may then come into another cohort, which grows by it."""
        before = self.board.rows.get(("assignment", campaign, name))
        if not isinstance(before, AssignmentRow):
            return
        at = self.board.now
        if again:
            self.board.feed(Reselected(campaign=campaign, target=name, at=at))
        else:
            self.board.feed(Deselected(campaign=campaign, target=name, revision=0, at=at))
        after = self.board.assignment(name, campaign)
        if after.cohort != before.cohort and (campaign, after.cohort) in self.sizes:
            is_late = self.board.cohorts(campaign)[after.cohort].name == "late"
            self.sizes[campaign, after.cohort] += not is_late

    @rule(cleared=st.booleans())
    def the_release_is_doubted(self, cleared: bool) -> None:
        self.board.doubt()
        for name in CAMPAIGNS if cleared else ():
            self.board.clear(name)

    def try_to(self, act: Callable[[], object]) -> None:
        before = self.board.rows
        try:
            act()
        except (RefusedError, NotFoundError):
            assert self.board.rows is before

    @rule(name=targets, steps=st.integers(1, 6), good=st.booleans())
    def behaves(self, name: str, steps: int, good: bool) -> None:
        self.behave(name, steps, good=good)

    def behave(self, name: str, steps: int, *, good: bool) -> None:
        """A device does what it is told, some steps of it."""
        for _ in range(steps):
            current = self.current(name)
            if current is None or current.order_hash is None:
                return
            self.one_step(current, good=good)

    @rule(steps=st.integers(1, 4))
    def all_work(self, steps: int) -> None:
        """Most of the fleet goes on by some steps."""
        for name in TARGETS[1:]:
            self.behave(name, steps, good=True)

    @rule(
        name=targets,
        word=st.sampled_from(AgentState),
        runs=images,
        reason=st.sampled_from(["none", "order-expired", "health-regressed", "health-recovered"]),
    )
    def babble(self, name: str, word: AgentState, runs: str, reason: str) -> None:
        """Any word about the current order."""
        self.board.report(name, word, runs=runs, reason_kind=reason)

    @rule(name=targets, word=st.sampled_from(AgentState), pick=st.integers(0, 50))
    def repeat_history(self, name: str, word: AgentState, pick: int) -> None:
        """Any word about an order of the past."""
        old = self.hashes[pick % len(self.hashes)] if self.hashes else None
        self.board.report(name, word, order_hash=old)

    @rule(name=targets, nonce=st.sampled_from([None, None, "replayed"]), stale=st.booleans(), pick=st.integers(0, 50))
    def ask(self, name: str, nonce: str | None, stale: bool, pick: int) -> None:
        old = self.hashes[pick % len(self.hashes)] if stale and self.hashes else None
        self.board.ask(name, nonce=nonce, order_hash=old)

    @rule(
        campaign=st.sampled_from(CAMPAIGNS), index=st.integers(0, 2), verdict=st.sampled_from(["pass", "pass", "fail"])
    )
    def somebody_answers(self, campaign: str, index: int, verdict: str) -> None:
        """About a cohort that there is, or not; with an external gate, or not."""
        cohort = self.board.cohorts(campaign)[min(index, len(self.board.cohorts(campaign)) - 1)].name
        said = {"verdict": GateVerdict(verdict), "name": "", "by": "bob", "reason": "", "at": self.board.now}
        before = self.board.rows
        try:
            self.board.feed(GateAnswered(campaign=campaign, cohort=cohort, **said))
        except RefusedError:
            assert self.board.rows is before

    @rule(seconds=st.sampled_from([1, 1, HEALTHY_S, HEALTHY_S, HORIZON_S, PATIENCE_S, 11 * PATIENCE_S, ORDER_TTL_S]))
    def time_passes(self, seconds: int) -> None:
        self.crash(pages=False, recalls=False, orders=False)
        self.board.wait(seconds)

    @rule(name=targets, quarantined=st.booleans())
    def quarantine(self, name: str, quarantined: bool) -> None:
        row = self.board.target(name)
        self.put(replace(row, quarantined=quarantined, version=row.version + 1))

    @rule(name=targets, good=st.booleans())
    def word(self, name: str, good: bool) -> None:
        at = self.board.now
        said = Word(name="ping", key=name, good=good, by="bob", reason="", at=at, expires_at=at + PATIENCE_S)
        self.board.words.append(said)
        self.history.append(said)

    @rule(pick=st.integers(0, 9), good=st.booleans(), old=st.booleans())
    def a_check_answers(self, pick: int, good: bool, old: bool) -> None:
        if self.board.inquiries:
            (name, key), row = sorted(self.board.inquiries.items())[pick % len(self.board.inquiries)]
            at = self.board.now - (2 * HORIZON_S if old else 0)
            expires_at = self.board.now + PATIENCE_S
            said = Word(name=name, key=key, good=good, by="check", reason="", at=at, expires_at=expires_at)
            self.board.words.append(said)
            self.history.append(said)
            self.board.note((name, key), replace(row, state="answered"))

    @rule(pick=st.integers(0, 9), state=st.sampled_from(["answered", "answered", "refused", "expired"]))
    def logs_come(self, pick: int, state: str) -> None:
        if self.board.evidence:
            key, row = sorted(self.board.evidence.items())[pick % len(self.board.evidence)]
            self.board.note(key, replace(row, state=state))

    @rule(name=targets, offline=st.booleans())
    def presence(self, name: str, offline: bool) -> None:
        self.put(replace(self.board.target(name), offline=offline))

    def put(self, row: TargetRow) -> None:
        """What others than the planner note about a target."""
        self.board.rows["target", row.id] = row
        self.history.append(row)

    def take_snapshot(self) -> bytes:
        self.history.clear()
        return pickle.dumps((self.board.rows, self.board.words, self.board.evidence, self.board.inquiries))

    @rule()
    def another_server_goes_on_from_the_snapshot(self) -> None:
        """It reads the stored rows, is told what happened since, and comes to the same rows: nothing is kept beside them."""
        twin = copy.copy(self.board)
        twin.rows, twin.words, twin.evidence, twin.inquiries = pickle.loads(self.snapshot)  # noqa: S301 (its own)
        twin.noters = []
        for happened in self.history:
            match happened:
                case TargetRow():
                    twin.rows["target", happened.id] = happened
                case Word():
                    twin.words.append(happened)
                case (key, row):
                    twin.note(key, row)
                case _:
                    twin.decide(happened)
        assert twin.rows == self.board.rows
        self.snapshot = self.take_snapshot()

    def teardown(self) -> None:
        if hasattr(self, "snapshot"):
            self.another_server_goes_on_from_the_snapshot()

    @rule(pages=st.booleans(), recalls=st.booleans(), orders=st.booleans(), deltas=st.booleans())
    def crash(self, pages: bool, recalls: bool, orders: bool, deltas: bool = False) -> None:
        """Until time passes some commands are lost, as when the server dies between its commit and the next step."""
        self.board.loses_pages, self.board.loses_recalls, self.board.loses_orders = pages, recalls, orders
        self.board.makes_deltas = not deltas

    @rule(campaign=st.sampled_from(CAMPAIGNS))
    def deltas_are_made(self, campaign: str) -> None:
        """Sooner or later, or twice."""
        self.board.deltas_ready(campaign)

    # What must hold, decision by decision

    def check_decision(self, loaded: Slice, event: Event, decision: Decision) -> None:
        assert step(loaded, event) == decision
        assert len(decision.changes) <= MOST_ROWS
        self.check_places(loaded, event, decision)
        for command in decision.commands:
            if isinstance(command, GrantPermit):
                self.check_permit(loaded, decision)
            counted = isinstance(command, Record) and command.kind in ("permit-granted", "no-permit-known")
            if counted and command.campaign and command.target:
                row = self.board.assignment(command.target, command.campaign)
                self.attempts[row.campaign, row.cohort] += row.action is Action.INSTALL
        self.hashes += [event.order_hash] if hasattr(event, "order_hash") and event.order_hash else []

    def check_permit(self, loaded: Slice, decision: Decision) -> None:
        campaign, target, before = loaded.campaign, loaded.target, loaded.assignment
        assert campaign is not None
        assert target is not None
        assert before is not None
        back = before.action is Action.ROLLBACK
        taken = before.back_reason or loaded.cohorts[before.cohort].back_reason
        if back:
            assert taken or campaign.state in GOING_BACK
        else:
            assert campaign.state in {C.RUNNING, C.WATCHING}
            assert not taken
            assert not campaign.suspect or campaign.strategy.on_suspect == "warn"
        assert not target.quarantined
        assert before.state not in (A.TRIAL, A.COMMITTED, A.VERIFIED)
        if before.state is not A.ACTIVATING:
            self.check_path(target)
            if not back:
                self.check_order(campaign, target)
                self.check_conditions(campaign, target)
        held = {token.group for token in loaded.tokens}
        for group in loaded.groups:
            is_others = group.reserved_by not in ("", campaign.id) and self.board.now < group.reserved_until
            assert not is_others or campaign.strategy.emergency or group.key in held or group.key not in target.groups
        for budget in campaign.strategy.budgets:
            for key in self.groups_of(budget, campaign.id, target):
                if key not in held:
                    self.check_budget(budget, key, target)
        if before.state is not A.ACTIVATING:
            assert before.attempt < campaign.strategy.max_attempts
            cohort = loaded.cohorts[before.cohort]
            assert back or cohort.state in (CohortState.OPEN, CohortState.PASSED)
            assert {token.group for token in self.board.tokens() if token.target == target.id} >= set(target.groups)

    def check_places(self, loaded: Slice, event: Event, decision: Decision) -> None:
        """Nobody is ordered where as many download as this campaign allows; only what a target says may be more."""
        before = {group.key: group.used for group in loaded.groups}
        plan = loaded.campaign.strategy if loaded.campaign else None
        for change in decision.changes:
            row = change.row
            more = isinstance(row, GroupRow) and row.key.startswith("download:") and row.used > before.get(row.key, 0)
            if more and plan and not isinstance(event, Reported):
                own = row.key.removeprefix("download:")
                name = own.partition("=")[0] if "=" in own else "campaign"
                assert row.used <= min([policy.limit for policy in plan.downloads if policy.by == name], default=99)

    def check_path(self, target: TargetRow) -> None:
        """Counted from the rows: nothing above it down, nothing below it in flight."""
        assert not target.path_fault
        places = (TokenKind.DOWNLOADING, TokenKind.IN_LINE)
        held = {token.target for token in self.board.tokens() if "=" in token.group and token.kind not in places}
        assert not held & set(target.gateways)
        for row in self.board.rows.values():
            if isinstance(row, TargetRow) and row.id != target.id:
                above = self.board.load(Footprint(target=row.id)).target
                if above is not None and target.id in above.gateways:
                    assert not [
                        one for one in self.board.assignments() if one.target == row.id and one.state in IN_FLIGHT
                    ]

    def check_order(self, campaign: CampaignRow, target: TargetRow) -> None:
        plan = campaign.strategy
        mine = self.board.assignments(campaign.id)
        if plan.leaves_first:
            late = len(self.board.cohorts(campaign.id)) - 1
            behind = [row for row in mine if target.id in row.gateways and row.cohort != late]
            assert not [row for row in behind if row.state in UNDECIDED]
        for policy in plan.after:
            before = self.board.campaign(policy.campaign)
            assert before.state in (C.WATCHING, C.COMPLETED)
            assert self.board.now >= before.changed_at + policy.soak_s
        if plan.together is not None:
            key = next(key for key in target.groups if key.startswith(f"{plan.together.by}="))
            others = [row for row in mine if row.target != target.id and key in self.board.target(row.target).groups]
            ready = {A.STAGED, A.ASKING, A.DEFERRED, A.VERIFIED, A.SKIPPED}
            assert {row.state for row in others} <= ready

    def check_conditions(self, campaign: CampaignRow, target: TargetRow) -> None:
        now = self.board.now
        for policy in campaign.strategy.preconditions:
            about = [word for word in self.board.words if word.name == policy.name and word.key in target.groups]
            known = [word for word in about if now < word.expires_at]
            if policy.per:
                assert not [word for word in known if not word.good]
                assert [word for word in known if now <= word.at + HORIZON_S]
            if policy.evidence:
                found = self.board.evidence[campaign.id, target.id]
                is_over = found.state in ("refused", "expired") or now >= found.asked_at + HEALTHY_S
                assert found.state == "answered" or (policy.when_missing == "proceed" and is_over)

    def groups_of(self, budget: BudgetPolicy, campaign: str, target: TargetRow) -> list[str]:
        if budget.by == "campaign":
            return [campaign_group(campaign)]
        return [key for key in target.groups if key.startswith(f"{budget.by}=")]

    def check_budget(self, budget: BudgetPolicy, key: str, admitted: TargetRow) -> None:
        """Counted from the rows, as they are after an admission."""
        fleet = [row for row in self.board.rows.values() if isinstance(row, TargetRow)]
        members = {row.id for row in fleet if key in row.groups}
        down = {token.target for token in self.board.tokens(key)}
        assert admitted.id in down
        if budget.offline_counts:
            down |= {row.id for row in fleet if row.offline and row.id in members}
        assert budget.limit is None or len(down) <= budget.limit
        assert budget.keep is None or len(members - down) >= budget.keep
        if budget.percent is not None:
            assert len(down) <= max(budget.at_least, len(members) * budget.percent / 100)

    # What must hold, always

    @invariant()
    def counters_are_exact(self) -> None:
        for name in CAMPAIGNS:
            for cohort in self.board.cohorts(name):
                rows = [row for row in self.board.assignments(name) if row.cohort == cohort.index]
                assert cohort.counts == Counter(row.state for row in rows)
                assert cohort.size == len(rows)
                assert cohort.going_back == sum(row.state in WAITING and row.action is Action.ROLLBACK for row in rows)
                assert cohort.attempted == self.attempts[name, cohort.index]
                if cohort.name != "late":
                    assert cohort.moved_to_late >= 0
                    assert cohort.size + cohort.moved_to_late == self.sizes[name, cohort.index]

    @invariant()
    def verdicts_are_what_judging_now_would_say(self) -> None:
        """Though a cohort is judged only when something that its gates look at changed."""
        for name in CAMPAIGNS:
            campaign = self.board.campaign(name)
            for cohort in self.board.cohorts(name) if campaign.state in LIVE else ():
                policy = campaign.strategy.cohorts[cohort.index] if cohort.name != "late" else None
                if policy is None or not policy.is_timeless:
                    continue
                judged = judge(policy, cohort, self.board.now)
                if cohort.state is CohortState.OPEN:
                    assert (cohort.verdict, cohort.verdict_text) == (judged.verdict, judged.text)
                elif cohort.state is CohortState.PASSED:
                    assert judged.verdict is not GateVerdict.FAIL

    @invariant()
    def strata_are_exact(self) -> None:
        for name in CAMPAIGNS:
            for cohort in self.board.cohorts(name):
                rows = [row for row in self.board.assignments(name) if row.cohort == cohort.index]
                told = cohort.strata.values()
                if told:
                    assert sum(stratum.targets for stratum in told) == sum(row.state not in NEUTRAL for row in rows)
                    assert sum(stratum.verified for stratum in told) == sum(row.state is A.VERIFIED for row in rows)
                    assert sum(stratum.failed for stratum in told) == sum(row.state in FAILURES for row in rows)
                    assert sum(stratum.late for stratum in told) == cohort.moved_to_late

    @invariant()
    def tokens_are_exact(self) -> None:
        used = Counter(token.group for token in self.board.tokens() if token.kind is not TokenKind.IN_LINE)
        groups = [row for row in self.board.rows.values() if isinstance(row, GroupRow)]
        assert {group.key: group.used for group in groups if group.used} == used
        states = {(row.campaign, row.target): row.state for row in self.board.assignments()}
        for token in self.board.tokens():
            state = states.get((token.campaign, token.target))
            holder = self.board.target(token.target).holder
            if token.kind in (TokenKind.UNHEALTHY, TokenKind.REGRESSED):
                assert state not in IN_FLIGHT
            elif token.kind is TokenKind.IN_FLIGHT:
                assert state in IN_FLIGHT
            elif token.kind is TokenKind.DOWNLOADING:
                assert state in (A.ORDERED, A.DOWNLOADING)
            elif token.kind is TokenKind.IN_LINE:
                assert state in (A.PLANNED, *WAITING, A.COMMITTED)
            elif holder == token.campaign:
                assert state in FAILURES

    @invariant()
    def reservations_end_and_are_for_who_waits(self) -> None:
        for group in (row for row in self.board.rows.values() if isinstance(row, GroupRow)):
            if group.reserved_by:
                plan = self.board.campaign(group.reserved_by).strategy
                assert plan.emergency
                assert group.reserved_until <= self.board.now + plan.urgency.reserve_s
                assert group.reservable_at == group.reserved_until + plan.urgency.reserve_s
                assert self.board.assignment(group.reserved_for, group.reserved_by).state in WAITING
                assert "=" in group.key

    @invariant()
    def who_may_be_down_is_counted(self) -> None:
        held = {(token.target, token.group) for token in self.board.tokens()}
        for row in self.board.assignments():
            if row.state in IN_FLIGHT:
                assert all((row.target, group) in held for group in self.board.target(row.target).groups)

    @invariant()
    def gateways_counters_are_exact(self) -> None:
        for name in CAMPAIGNS:
            late = len(self.board.cohorts(name)) - 1
            waiting = Counter(
                gateway
                for row in self.board.assignments(name)
                for gateway in row.gateways
                if row.state in UNDECIDED and row.cohort != late
            )
            rows = [row for row in self.board.rows.values() if isinstance(row, BehindRow) and row.campaign == name]
            assert {row.gateway: row.waiting for row in rows if row.waiting} == waiting

    @invariant()
    def nobody_is_lost(self) -> None:
        for row in self.board.assignments():
            campaign = self.board.campaign(row.campaign)
            if row.state is A.PLANNED:
                admitting = campaign.state is C.RUNNING and campaign.cohort == row.cohort
                open_ = self.board.cohorts(row.campaign)[row.cohort].state is CohortState.OPEN
                if admitting and open_:
                    assert row.wake_at is not None or campaign.wake_at is not None
            elif row.state in UNDECIDED:
                assert row.wake_at is not None
            else:
                assert row.wake_at is None

    @invariant()
    def who_is_taken_back_goes_back(self) -> None:
        """Nobody stays on the release, or on the way to it, unless the deadline that recalls the next page is set."""
        for row in self.board.assignments():
            cohort = self.board.cohorts(row.campaign)[row.cohort]
            stays = row.state in (A.PLANNED, *WAITING, A.COMMITTED, A.VERIFIED) and row.action is Action.INSTALL
            if stays and row.back_reason:
                raise AssertionError(f"{row.target} was taken back and is {row.state}")
            if stays and cohort.back_reason:
                assert self.board.campaign(row.campaign).wake_at is not None

    @invariant()
    def nobody_is_verified_on_a_step(self) -> None:
        for row in self.board.assignments():
            assert row.state is not A.VERIFIED or row.via is None
            assert row.action is Action.INSTALL or row.via is None

    @invariant()
    def a_cohort_waits_for_deltas_only_while_there_is_a_deadline(self) -> None:
        for name in CAMPAIGNS:
            campaign, first = self.board.campaign(name), self.board.cohorts(name)[0]
            if campaign.state is C.RUNNING and first.state is CohortState.CLOSED:
                assert campaign.deltas_until is not None
                assert campaign.wake_at == campaign.deltas_until
            if first.state is not CohortState.CLOSED:
                assert campaign.deltas_until is None

    @invariant()
    def one_campaign_holds_a_target(self) -> None:
        busy = [row for row in self.board.assignments() if row.state in UNDECIDED and row.state is not A.PLANNED]
        for row in busy:
            target = self.board.target(row.target)
            if row.state is not A.COMMITTED:
                assert (target.holder, target.settled) == (row.campaign, False)
        assert max(Counter(row.target for row in busy).values(), default=1) == 1

    @invariant()
    def a_failed_gate_stops_the_campaign(self) -> None:
        for name in CAMPAIGNS:
            failed = any(row.state is CohortState.FAILED for row in self.board.cohorts(name))
            assert not failed or self.board.campaign(name).state not in (C.RUNNING, C.WATCHING)

    @invariant()
    def everybody_can_be_explained(self) -> None:
        for row in self.board.assignments():
            said = self.board.explain(row.target, row.campaign)
            assert said.text.endswith(".")
            assert said.release_by
            waits_for_deltas = said.kind == "deltas"
            if said.kind not in ("after", "reserved", "evidence"):
                assert said.until == (
                    self.board.campaign(row.campaign).deltas_until if waits_for_deltas else row.wake_at
                )

    # Odds and ends

    def current(self, name: str) -> AssignmentRow | None:
        row = self.board.rows.get(("assignment", self.board.target(name).holder or "", name))
        return row if isinstance(row, AssignmentRow) else None

    def one_step(self, row: AssignmentRow, *, good: bool) -> None:
        """The next thing an honest device does."""
        old = self.board.target(row.target).running_sha256 if row.action is Action.INSTALL else NEW
        new = (row.via.sha256 if row.via else NEW) if row.action is Action.INSTALL else OLD
        match row.state:
            case A.ORDERED:
                self.board.report(row.target, "downloading")
            case A.DOWNLOADING | A.DEFERRED:
                self.board.report(row.target, "staged")
            case A.STAGED | A.ASKING:
                self.board.ask(row.target)
            case A.ACTIVATING:
                self.board.report(row.target, "trial", runs=new)
            case A.TRIAL:
                self.board.report(row.target, "committed" if good else "fell_back", runs=new if good else old)
            case A.COMMITTED:
                self.time_passes(HEALTHY_S)
            case _:
                pass


PlannerMachine.TestCase.settings = settings(stateful_step_count=30)
TestPlannerInvariants = PlannerMachine.TestCase


def test_every_campaign_that_runs_long_enough_ends_or_says_what_it_waits_for() -> None:
    board = Board()
    for name in TARGETS:
        board.add_target(name, groups=("site=x",))
    board.add_campaign("c", TARGETS)
    board.start()
    board.wait(20 * ORDER_TTL_S)
    assert board.campaign().state is C.RUNNING
    assert "more must verify" in board.cohort("canary").verdict_text
    for name in board.members("late"):
        assert board.state(name) is A.EXPIRED
    assert not [row for row in board.rows.values() if isinstance(row, TargetRow) and not row.settled]
    board.feed(CampaignDue(campaign="c", at=board.now))
    assert C.RUNNING in LIVE
