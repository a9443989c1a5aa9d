"""One turn of the planner: events in, decisions committed, commands carried out, all inside one transaction.

For each event: load its slice, decide, commit by compare-and-set, carry out the commands. What the commands find out is
fed back as events before the transaction ends, so that an order is never stored without the planner knowing its hash.
"""

from collections import deque
from collections.abc import Callable

from msgspec.structs import replace

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.permit import Ask, Permit, Verdict
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.words import Action
from server.campaigns.director import Director
from server.campaigns.legs import plan_legs
from server.campaigns.logs import capture
from server.campaigns.members import ENLIST_PAGE, membership, told
from server.campaigns.orders import holds_old_key, make_order, sign_again
from server.campaigns.signed import file_order, file_permit
from server.errors import ConflictError
from server.planner.commands import (
    PAGE,
    Admit,
    Capture,
    Command,
    Consult,
    Displace,
    Doubt,
    Enlist,
    GrantPermit,
    PrepareDeltas,
    Recall,
    Record,
    SendOrder,
    TellWait,
)
from server.planner.decision import Decision, Put
from server.planner.download_line import NextInLine, PlaceFree
from server.planner.events import (
    AssignmentDue,
    CampaignDue,
    Candidate,
    Cleared,
    CohortDrained,
    DeltasReady,
    Displaced,
    Doubted,
    Event,
    Ordered,
    OrderImpossible,
    Recalled,
)
from server.planner.rows import AssignmentRow, CampaignRow, TargetRow
from server.planner.selection import Selection
from server.planner.slices import Footprint, Slice
from server.planner.states import IN_FLIGHT, WAITING
from server.planner.step import footprint, step
from server.ports import DeltaNeed, OpenInquiry, ReleaseState, StoredOrder, Unit

POSTPONE_S = 60.0
NO_CHANGE = "none"
Decide = Callable[[Slice, Event], Decision]
"""What decides: `server.planner.step.step`, or it with other checks."""


class Turn:
    """Feeds events to the planner inside one transaction."""

    def __init__(self, unit: Unit, director: Director, now: float, decide: Decide = step) -> None:
        self._unit = unit
        self._decide = decide
        self._director = director
        self.now = now
        self._events: deque[Event] = deque()
        self._ask: Ask | None = None

    def feed(self, event: Event, *, ask: Ask | None = None) -> None:
        """Feed an event and all that follows from it. One the planner refuses is put on the trail and moves nothing."""
        self._ask = ask
        self._events.append(event)
        while self._events:
            following = self._events.popleft()
            try:
                self._one(following)
            except (ConflictError, UnavailableError):
                raise
            except OtariaError as error:
                self._ignore(following, error)

    def stay_ahead(self, target: str, *, disputed: str | None, introduced: bool = False) -> None:
        """Sign a target's order again above the counter it echoed, which no order of this database has: a restored backup
        has forgotten those (or somebody else signs with the director's key), and the target ignores all that is below. So
        too an order of an earlier director epoch: its key was taken away, and the target refuses what that key signed.

        `disputed`: the hash of an order whose counter the target holds with other words. What waits for a permit gets its
        order again; what is in flight is left alone; to any other the order becomes to do nothing. `introduced`: the target has
        told who it is; a key that it can't open (any more) is wrapped anew while it waits for a permit.
        """
        current, echoed = self._unit.orders.current(target), self._unit.orders.echoed(target)
        if current is None:
            return
        outdated = current.counter.epoch < self._director.epoch
        behind = echoed is not None and (echoed > current.counter or disputed == current.hash)
        rekeyed = introduced and holds_old_key(self._unit, current)
        if not outdated and not behind and not rekeyed:
            return
        assignment = self._unit.campaigns.load(Footprint(target=target)).assignment
        about_it = assignment is not None and assignment.order_hash == current.hash
        if assignment is not None and about_it and assignment.state in IN_FLIGHT:
            return
        waits = assignment if about_it and assignment is not None and assignment.state in WAITING else None
        if waits is None and not outdated and not behind:
            return
        try:
            order = sign_again(self._unit, self._director, current, self.now, withdraw=waits is None)
        except RefusedError:
            return  # nothing can be signed above that; the next campaign is told why
        self._send(order)
        cause = (
            f"It holds order {echoed.n}, which this server does not know"
            if echoed and behind
            else "The director changed"
            if outdated
            else "It has a new encryption key"
        )
        text = f"{cause}; its order was signed anew as {order.counter.n} of epoch {order.counter.epoch}."
        self._audit("order-signed-again", text, order.campaign, target)
        if waits is not None:
            again = Ordered(campaign=waits.campaign, target=target, order_hash=order.hash, at=self.now, via=waits.via)
            self.feed(again)

    def withdraw(self, target: str) -> None:
        """Make a target's current order one to do nothing, signed under the next counter. One that can't be signed any more
        is left to end by itself."""
        current = self._unit.orders.current(target)
        if current is None:
            return
        try:
            self._send(sign_again(self._unit, self._director, current, self.now, withdraw=True))
        except RefusedError as error:
            self._audit("order-not-made", error.text, current.campaign, target)

    def command(self, event: Event) -> None:
        """Feed an event somebody waits for; what the planner refuses about it is raised."""
        self._one(event)
        if self._events:
            self.feed(self._events.popleft())

    def due(self, row: CampaignRow | AssignmentRow) -> None:
        """Feed a deadline, unless an earlier event of this transaction has moved it. One that the planner leaves where it
        is would come back at once, for ever: it is postponed and put on the trail."""
        event = self._deadline(row)
        current = self._current(event)
        if current is None or current.wake_at is None or current.wake_at > self.now:
            return
        self.feed(event)
        if self._current(event) == current:
            self.postpone(current)

    def postpone(self, row: CampaignRow | AssignmentRow) -> None:
        """Move a deadline that nothing handles out of the way, and say so on the trail."""
        self._unit.campaigns.commit(
            Decision(changes=(Put(row=replace(row, wake_at=self.now + POSTPONE_S)),)),
        )
        name, target = (row.id, None) if isinstance(row, CampaignRow) else (row.campaign, row.target)
        self._unit.audit.add(
            at=self.now,
            kind="deadline-postponed",
            text=f"Nothing handled a deadline that passed; it is tried again in {POSTPONE_S:g} s.",
            campaign=name,
            target=target,
        )

    def _one(self, event: Event) -> None:
        loaded = self._unit.campaigns.load(footprint(event))
        decision = self._decide(loaded, event)
        self._unit.campaigns.commit(decision)
        for command in decision.commands:
            self._carry_out(command, loaded, decision)

    def _carry_out(self, command: Command, loaded: Slice, decision: Decision) -> None:
        match command:
            case Admit():
                self._admit(command)
            case Capture() | Consult():
                self._inquire(command, loaded)
            case Enlist():
                self._enlist(command)
            case Displace():
                self._events.append(
                    Displaced(
                        campaign=command.campaign,
                        target=command.target,
                        by=command.by,
                        over=command.over,
                        at=self.now,
                    )
                )
            case PrepareDeltas():
                self._prepare(command)
            case Recall():
                self._recall(command)
            case NextInLine():
                self._next_in_line(command)
            case SendOrder():
                self._order(command, loaded, decision)
            case GrantPermit() | TellWait():
                self._answer(command, loaded)
            case Doubt():
                self.doubt(command.product, command.version, command.reason)
            case Record():
                self._record(command, loaded)

    def doubt(self, product: str, version: str, reason: str, *, by: str = "planner") -> None:
        """Mark a release suspect and tell every campaign of it; nothing happens to one that is no longer active."""
        release = self._unit.releases.get(product, version)
        if release is None or release.state is not ReleaseState.ACTIVE:
            return
        self._unit.releases.set_state(product, version, ReleaseState.SUSPECT)
        text = f"{product} {version} is suspect. {reason}"
        self._unit.audit.add(at=self.now, kind="release-suspect", text=text, actor=by)
        for row in self._unit.campaigns.with_release(product, version):
            self._events.append(Doubted(campaign=row.id, reason=reason[:1000], at=self.now))

    def clear(self, product: str, version: str, *, by: str, reason: str) -> None:
        """Make a suspect release active again and tell every campaign of it."""
        self._unit.releases.set_state(product, version, ReleaseState.ACTIVE)
        text = f"{by} cleared {product} {version}: {reason}"
        self._unit.audit.add(at=self.now, kind="release-cleared", text=text, actor=by)
        for row in self._unit.campaigns.with_release(product, version):
            self._events.append(Cleared(campaign=row.id, by=by, reason=reason, at=self.now))

    def enlist(self, campaign: str, selection: Selection) -> None:
        """Bring a campaign with a live selection up to a page of who fits by now, and who doesn't any more."""
        row = self._unit.campaigns.load(Footprint(campaign=campaign)).campaign
        if row is not None:
            change = membership(self._unit, row, selection, ENLIST_PAGE)
            self._events.extend(told(row.id, change, revision=0, at=self.now))

    def drain(self) -> None:
        """Feed what is left to tell."""
        if self._events:
            self.feed(self._events.popleft())

    def _admit(self, command: Admit) -> None:
        limit = min(command.limit, PAGE)
        rows = self._unit.campaigns.candidates(command.campaign, command.cohort, limit)
        targets = [row.target for row in rows]
        self._unit.campaigns.expect(targets, campaign=command.campaign)
        self._unit.orders.expect(targets)
        self._unit.fleet.expect(targets)
        self._events.extend(Candidate(campaign=row.campaign, target=row.target, at=self.now) for row in rows)
        if len(rows) < limit:
            self._events.append(CohortDrained(campaign=command.campaign, cohort=command.cohort, at=self.now))

    def _inquire(self, command: Capture | Consult, loaded: Slice) -> None:
        """Have something asked that a target waits for: its logs, or a check elsewhere."""
        if isinstance(command, Capture):
            change_id = loaded.campaign.change_id if loaded.campaign else None
            capture(self._unit, self._director, command, change_id, self.now)
            return
        self._unit.inquiries.open(
            OpenInquiry(
                name=command.name,
                key=command.key,
                campaign=command.campaign,
                target=command.target,
                asked_at=self.now,
                next_at=self.now,
            )
        )

    def _enlist(self, command: Enlist) -> None:
        row = self._unit.campaigns.load(Footprint(campaign=command.campaign)).campaign
        if row is None:
            raise RefusedError("not-found", f"There is no campaign {command.campaign} to select targets for.")
        change = membership(self._unit, row, command.selection)
        self._unit.campaigns.set_selection(row.id, command.selection)
        self._events.extend(told(row.id, change, revision=command.revision, at=self.now))

    def _prepare(self, command: PrepareDeltas) -> None:
        row = self._unit.campaigns.load(Footprint(campaign=command.campaign)).campaign
        if row is None:
            raise RefusedError("not-found", f"There is no campaign {command.campaign} to make deltas for.")
        plan = plan_legs(self._unit, row)
        self._unit.campaigns.set_legs(row.id, plan.legs)
        for text in plan.faults:
            self._audit("no-path", text, row.id, None)
        if not any(leg.need is DeltaNeed.WANTED for leg in plan.legs):
            self._events.append(DeltasReady(campaign=row.id, at=self.now))

    def _next_in_line(self, command: NextInLine) -> None:
        row = self._unit.campaigns.first_in_line(command.group)
        if row is not None:
            following = PlaceFree(campaign=row.campaign, target=row.target, group=command.group, at=self.now)
            self._events.append(following)

    def _recall(self, command: Recall) -> None:
        found = self._unit.campaigns.in_states(
            command.campaign, command.states, PAGE, cohort=command.cohort, action=Action.INSTALL
        )
        for row in found:
            self._events.append(
                Recalled(
                    campaign=row.campaign,
                    target=row.target,
                    action=command.action,
                    reason_kind=command.reason_kind,
                    reason=command.reason,
                    at=self.now,
                )
            )

    def _order(self, command: SendOrder, loaded: Slice, decision: Decision) -> None:
        campaign, target = loaded.campaign, _target_after(loaded, decision)
        if campaign is None or target is None:
            raise RefusedError("not-found", f"The order for {command.target} has no campaign or target.")
        try:
            order, via = make_order(
                self._unit,
                self._director,
                campaign,
                target,
                command.action,
                self.now,
                out_until=command.out_until,
                max_rate=command.max_rate,
            )
        except RefusedError as error:
            self._impossible(command, error)
            return
        self._send(order)
        self._events.append(
            Ordered(campaign=command.campaign, target=command.target, order_hash=order.hash, at=self.now, via=via)
        )

    def _send(self, order: StoredOrder) -> None:
        """Make it the target's current order."""
        self._unit.orders.put(order)
        file_order(self._unit, order, self.now)
        topic = of_target(order.agent, order.target, Leaf.ORDER)
        self._unit.outbox.add(topic, order.envelope, retain=True)

    def _impossible(self, command: SendOrder, error: RefusedError) -> None:
        if command.action is not Action.INSTALL:
            self._audit("order-not-made", error.text, command.campaign, command.target)
        self._events.append(
            OrderImpossible(
                campaign=command.campaign,
                target=command.target,
                reason_kind=error.kind,
                reason=error.text,
                at=self.now,
            )
        )

    def _answer(self, command: GrantPermit | TellWait, loaded: Slice) -> None:
        if self._ask is None or loaded.target is None or self._ask.nonce != command.nonce:
            raise RefusedError("not-found", f"The permit for {command.target} answers no ask.")
        granted = isinstance(command, GrantPermit)
        lives_s = command.valid_s if isinstance(command, GrantPermit) else command.retry_after_s
        permit = Permit(
            target=command.target,
            agent=loaded.target.agent,
            order_hash=command.order_hash,
            counter=self._ask.counter,
            boot_id=command.boot_id,
            nonce=command.nonce,
            verdict=Verdict.GRANTED if granted else Verdict.WAIT,
            valid_s=lives_s if granted else 0,
            retry_after_s=0 if granted else lives_s,
            reason_kind="none" if isinstance(command, GrantPermit) else command.reason_kind,
            reason="" if isinstance(command, GrantPermit) else command.reason,
            campaign=command.campaign,
            change_id=loaded.campaign.change_id if loaded.campaign else NO_CHANGE,
            issued_at=int(self.now),
        )
        topic = of_target(loaded.target.agent, command.target, Leaf.PERMIT)
        envelope = self._director.sign_permit(permit)
        file_permit(self._unit, permit, envelope, self.now)
        self._unit.outbox.add(topic, envelope, expires_at=self.now + lives_s)

    def _record(self, command: Record, loaded: Slice) -> None:
        same = loaded.campaign is not None and loaded.campaign.id == command.campaign
        self._unit.audit.add(
            at=self.now,
            kind=command.kind,
            text=command.text,
            change_id=loaded.campaign.change_id if loaded.campaign and same else None,
            campaign=command.campaign,
            target=command.target,
        )

    def _ignore(self, event: Event, error: OtariaError) -> None:
        text = f"{type(event).__name__} was ignored: {error.text}"
        self._audit("event-ignored", text, getattr(event, "campaign", None), getattr(event, "target", None))

    def _audit(self, kind: str, text: str, campaign: str | None, target: str | None) -> None:
        self._unit.audit.add(at=self.now, kind=kind, text=text, campaign=campaign, target=target)

    def _deadline(self, row: CampaignRow | AssignmentRow) -> CampaignDue | AssignmentDue:
        if isinstance(row, CampaignRow):
            return CampaignDue(campaign=row.id, at=self.now)
        return AssignmentDue(campaign=row.campaign, target=row.target, at=self.now)

    def _current(self, event: CampaignDue | AssignmentDue) -> CampaignRow | AssignmentRow | None:
        loaded = self._unit.campaigns.load(footprint(event))
        return loaded.campaign if isinstance(event, CampaignDue) else loaded.assignment


def _target_after(loaded: Slice, decision: Decision) -> TargetRow | None:
    """The target as the decision leaves it: what it runs may have come with this very event."""
    changed = [change.row for change in decision.changes if isinstance(change.row, TargetRow)]
    return changed[0] if changed else loaded.target
