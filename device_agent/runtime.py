"""The interpreter: carries out the core's commands over ports. It has no thread, no loop and no sleep of its own.

How to drive it (the real process does so in `device_agent.app`, a simulator does so for many at once):

1. `runtime = Runtime(...)`, then `start()` once. It loads the journal and tells the core of the boot.
2. `handle(input)` for every message (`Incoming`), connection change (`Connected`) and finished job (`JobDone`); `due()` when
   `next_wake()` (monotonic seconds of `ports.clock`; None: nothing to wait for) has come. A call too early is harmless.
3. After *every* one of these calls run the jobs that `take_jobs()` returns, at once or later, on any thread or none, and hand
   each answer back to `handle`. At most one job per lane is out at a time.
4. All calls but `Job.run` come from one thread, or under one lock. `stop()` lets running jobs end early.

Rule of every step: the new standing and its reports are durable, in one write, before any other command is carried out.
An error of that write (`UnavailableError`) leaves the journal as it was; the process must end, and starts again from it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from device_agent import dispatch, inbound, outbox, reports, work
from device_agent.bundle import bringing
from device_agent.bundle.bringing import Reply
from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core import orders
from device_agent.core.boot import may_live, on_trial
from device_agent.core.machine import step, wake_at
from device_agent.core.states import Activating, Refused, Standing, Trial
from device_agent.core.values import Content, Tuning
from device_agent.factory import identify, with_running
from device_agent.gate import Bucket, Gate
from device_agent.identity import Identity
from device_agent.journal import Record
from device_agent.kept import Kept
from device_agent.lanes import Lanes
from device_agent.lineage import OWN, Lineage
from device_agent.local.hooks import Point
from device_agent.ports import HealthResult, Incoming, Slot, SlotSets, Switch, WayTaken
from device_agent.post import Pace, Post
from device_agent.surveys import Surveys
from device_agent.tellings import Tellings
from device_agent.timer import Timer
from device_agent.trusted_time import BUILD_TIME, TrustedTime
from device_agent.watchdog import Leave
from device_agent.work import Job, JobDone, Lane, Ports, StopFlag
from firmware.checks import HealthCheck
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol import topics
from firmware.protocol.codec import canonical
from firmware.protocol.logs import PART_KIND, LogRequest
from firmware.protocol.permit import ASK_KIND, Ask
from firmware.protocol.report import EncryptionKey, Inventory, Presence, Progress, Reason
from firmware.protocol.words import AgentState, ReasonKind

if TYPE_CHECKING:  # few devices measure
    from device_agent.metrics.desk import MetricDesk

log = logging.getLogger(__name__)
RETURN_AGAIN_S = 60.0
CAPABILITIES = ("delta-otd1",)


@dataclass(frozen=True, kw_only=True)
class Connected:
    """The broker was reached (`online`) or lost."""

    online: bool


Input = Incoming | Connected | JobDone


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Intervals in seconds. `pace`: resending of reports. A doorbell is answered within `doorbell_spread_s`; refreshes for
    unknown signatures keep `refresh_min_s` between them. Reports about orders that change nothing stop at `max_waiting_notes`
    unacked reports, and after a few come one per `note_every_s`. The boot loader hears that the system stayed up after
    `min_uptime_s` (None: never), once a process; until then every boot counts, so that a system that restarts again and again is
    left for the previous one. `own_checks`: the health checks that the device declares. `survey_s`: how often a
    host's packages are looked at."""

    tuning: Tuning = field(default_factory=Tuning)
    agent_version: str = "0"
    labels: dict[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = CAPABILITIES
    pace: Pace = field(default_factory=Pace)
    progress_s: float = 2.0
    doorbell_spread_s: float = 5.0
    refresh_min_s: float = 30.0
    build_time: float = BUILD_TIME
    max_waiting_notes: int = 64
    note_every_s: float = 60.0
    own_checks: tuple[HealthCheck, ...] = ()
    min_uptime_s: float | None = None
    survey_s: float | None = None


class Runtime:
    """One agent. See the module's text for how to drive it."""

    def __init__(
        self,
        *,
        identity: Identity,
        ports: Ports,
        directory: Path,
        settings: Settings | None = None,
        session: str | None = None,
        identify_slot: Callable[[SlotSets, Slot], Content | None] = identify,
        notice: Callable[[dict[str, Any]], None] = lambda event: None,
        way: Callable[[], WayTaken] = WayTaken,
        lineage: Lineage = OWN,
        encryption_key: Callable[[], EncryptionKey | None] = lambda: None,
        labels: Callable[[dict[str, str]], dict[str, str]] = lambda given: given,
        evidence: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """`directory` holds the journal. `identify_slot` says what the running slot holds when there is no journal. `session`
        names this process in its presence; whoever made the link with a last will passes the same. `notice` is told of every
        report and of progress, for people at the device; it may be called on any thread. `way`: by which way we come, for
        the inventory; so is `encryption_key`, whose private half the device holds, and what `labels` makes of the settings'
        labels. `lineage`: in which schema the journal is written. `evidence` goes into every report about an order."""
        settings = settings or Settings()
        self._identity, self._ports, self._settings = identity, ports, settings
        self._identify, self._notice, self._way = identify_slot, notice, way
        self._encryption_key, self._labels = encryption_key, labels
        self._session = session or ports.chance.nonce()
        self._time = TrustedTime(settings.build_time, ports.clock.seconds())
        self._post = Post(ports.link, identity, settings.pace)
        self._kept = Kept(
            identity=identity,
            ports=ports,
            directory=directory,
            lineage=lineage,
            time=self._time,
            post=self._post,
            evidence=evidence,
        )
        self._tellings = Tellings(kept=self._kept, ports=ports, inventory=self._inventory)
        self._gate = Gate(ports.notary, refresh_min_s=settings.refresh_min_s)
        self._notes = Bucket(size=orders.MAX_NOTED, every_s=settings.note_every_s)
        self._lanes = Lanes()
        self._uptime, self._returning = Timer(settings.min_uptime_s), Timer(RETURN_AGAIN_S)
        self._surveys = Surveys(ports=ports, lanes=self._lanes, tellings=self._tellings, every_s=settings.survey_s)
        self._stops: dict[Lane, StopFlag] = {}
        self._hooks_stop = StopFlag()
        self._progressed_at = float("-inf")

    # Driving

    def start(self) -> None:
        """Load the journal, or begin one, and take up where the last process stopped. Raises `UnavailableError`; a host may be
        about to restart (`host-restarting`)."""
        if self._ports.switch is not None and not self._ports.switch.resume():
            raise UnavailableError("host-restarting", "The host is being restarted to go on with its packages.")
        status = self._ports.boot.status()
        trouble: Reason | None = None
        try:
            stored = self._kept.load()
        except RefusedError as error:
            stored, trouble = None, Reason(kind=error.kind, text=error.text)
            log.warning("journal damaged", extra={"reason": error.text})
        record = stored or Record(outbox=outbox.Outbox(journal=self._ports.chance.nonce()))
        slots = with_running(record.standing.slots, status, lambda slot: self._identify(self._ports.slots, slot))
        self._kept.record = replace(record, standing=replace(record.standing, slots=slots))
        self._time.learn(self._record.trusted_time, self._now())
        self._gate.want_refresh(self._now())
        self._uptime.begin(self._now())
        if self._ports.metrics is not None:
            self._ports.metrics.begin(status.boot_id, self._now(), self._ports.chance.jitter())
        self._apply(ev.Booted(status=status))
        self._tellings.tell_inventory(trouble)
        self._surveys.survey()
        self._return_reports()

    def handle(self, happened: Input) -> None:
        """Take in one thing that happened. Raises `UnavailableError` (`storage-fault`) when it can't be made durable."""
        if isinstance(happened, Incoming):
            self._receive(happened)
        elif isinstance(happened, Connected):
            self._connected(happened.online)
        else:
            self._finished(happened)

    def due(self) -> None:
        """Do what the clock makes due now."""
        now = self._now()
        at = wake_at(self.standing)
        if at is not None and at <= now:
            self._apply(ev.Woke(nonce=self._ports.chance.nonce(), jitter=self._ports.chance.jitter()))
        if self._post.resend_at is not None and self._post.resend_at <= now:
            self._post.resend(self._record.outbox, now, self._ports.chance.jitter())
        if self._uptime.take(now):
            self._lanes.add(Job(lane=Lane.BOOT, run=lambda: work.note_uptime(self._ports)))
        if self._returning.take(now):
            self._return_reports()
        self._surveys.due(now)
        logs = self._ports.logs
        if logs is not None and logs.send_at is not None and logs.send_at <= now:
            logs.send(self._send_log_part, now)
        if self._ports.metrics is not None:
            self._tend_metrics(self._ports.metrics, now)
        if self._lanes.is_free(Lane.CATALOGUE) and self._gate.take_refresh(now):
            self._refresh()

    def next_wake(self) -> float | None:
        """Monotonic seconds at which to call `due`, or None; a time that has passed means now."""
        times = [wake_at(self.standing), self._post.resend_at, self._uptime.due_at, self._returning.due_at]
        times += self._surveys.times
        times.append(self._ports.logs.send_at if self._ports.logs is not None else None)
        if self._ports.metrics is not None:
            times += [self._ports.metrics.sample_at, self._ports.metrics.tell_at]
        if self._lanes.is_free(Lane.CATALOGUE):
            times.append(self._gate.refresh_at)
        return min((at for at in times if at is not None), default=None)

    def take_jobs(self) -> Sequence[Job]:
        """Jobs to run now; each is handed out once."""
        return self._lanes.take()

    def tell(self, event: ev.Event) -> None:
        """Take in what somebody at the device wants. Raises `UnavailableError` like `handle`."""
        self._apply(event)

    def check_now(self, reply: Callable[[HealthResult], None]) -> bool:
        """Run the checks of what runs and hand their result to `reply`; False while others run."""
        if not self._lanes.is_free(Lane.HEALTH):
            return False
        content = self.standing.slots.get(self.standing.boot.slot)
        ports, own, stop = self._ports, self._settings.own_checks, StopFlag()
        self._stops[Lane.HEALTH] = stop
        manifest = content.manifest if content else None

        def run() -> JobDone:
            found = work.check_now(ports, manifest, own=own, stop=stop)
            return JobDone(lane=Lane.HEALTH, then=lambda: reply(found))

        self._lanes.add(Job(lane=Lane.HEALTH, run=run))
        return True

    def bring(self, path: Path, reply: Reply) -> None:
        """Take the order for this target out of a bundle. `reply` is told on any thread whether it was taken up, or why not."""
        ports, target, trusted_time = self._ports, self._identity.target, self.trusted_time()
        run = lambda: work.bring_bundle(ports, target, path, trusted_time=trusted_time, reply=reply)  # noqa: E731
        self._lanes.add(Job(lane=Lane.CATALOGUE, run=run))

    def stop(self) -> None:
        """Let running jobs end early; the journal already holds all that matters."""
        for flag in (*self._stops.values(), self._hooks_stop):
            flag.set()

    # Looking

    @property
    def _record(self) -> Record:
        return self._kept.record

    @property
    def standing(self) -> Standing:
        return self._record.standing

    def trusted_time(self) -> float:
        """Trusted POSIX seconds now; may be read from any thread."""
        return self._time.seconds(self._now())

    def leave(self) -> Leave:
        """What a watchdog may do now."""
        return Leave(feed=may_live(self.standing, self._now()), trial=on_trial(self.standing))

    @property
    def waiting_reports(self) -> int:
        """Number of reports that no ack has covered yet."""
        return len(self._record.outbox.entries)

    @property
    def presence(self) -> tuple[str, bytes, bytes]:
        """Topic, online payload and last will of this session, for whoever makes the link."""
        return presence_messages(self._identity.agent, self._session)

    # Inputs

    def _receive(self, message: Incoming) -> None:
        if message.leaf == "catalogue":
            self._ring(message.payload)
        elif message.target == self._identity.target and message.payload:
            self._open(message.leaf, message.payload)

    def _ring(self, payload: bytes) -> None:
        jitter = self._ports.chance.jitter()
        if self._gate.ring(payload, self._now(), jitter * self._settings.doorbell_spread_s):
            self._apply(ev.LinkUp(jitter=jitter))

    def _open(self, leaf: str, payload: bytes) -> None:
        opened = self._gate.open(leaf, payload, self._identity, self._now())
        now = self._now()
        if isinstance(opened, ev.OrderArrived | ev.OrderForeign):
            self._time.learn(opened.held.order.issued_at, now, until=self._gate.believed_until)
            if not orders.only_noted(self.standing, opened) or self._notes.take(now):
                self._apply(opened)
        elif isinstance(opened, inbound.PermitOpened):
            self._time.learn(opened.permit.issued_at, now, until=self._gate.believed_until)
            self._apply(ev.PermitArrived(permit=opened.permit, jitter=self._ports.chance.jitter()))
        elif isinstance(opened, inbound.AckOpened):
            self._time.learn(opened.ack.issued_at, now, until=self._gate.believed_until)
            self._take_ack(opened)
        elif isinstance(opened, LogRequest):
            self._time.learn(opened.issued_at, now, until=self._gate.believed_until)
            self._take_log_request(opened)

    def _take_log_request(self, request: LogRequest) -> None:
        """Note durably that the request was taken, then gather the answer."""
        desk, taken, now = self._ports.logs, self._record.logs_taken, self._now()
        if desk is None or not desk.admits(request, taken=taken, trusted_time=self._time.seconds(now), now=now):
            return
        self._kept.store(replace(self._record, logs_taken=request.counter))
        self._lanes.add(Job(lane=Lane.LOGS, run=lambda: JobDone(lane=Lane.LOGS, parts=desk.collect(request))))

    def _send_log_part(self, payload: bytes) -> bool:
        """Sign and publish one part; False when it has to wait."""
        try:
            envelope = self._ports.notary.seal(payload, PART_KIND)
        except UnavailableError as error:
            log.info("a part of a log waits", extra={"reason": error.text})
            return False
        return self._ports.link.publish(self._topic(topics.Leaf.REPORT), envelope, qos=1)

    def _take_ack(self, opened: inbound.AckOpened) -> None:
        left = outbox.acked(self._record.outbox, opened.ack)
        if left == self._record.outbox:
            return
        self._ports.reach.heard = True
        self._kept.store(replace(self._record, outbox=left))
        self._post.acked(left, self._now(), self._ports.chance.jitter())
        self._tellings.let_metrics_go_on()
        self._tellings.packages_acked(opened.ack)

    def _connected(self, online: bool) -> None:
        jitter = self._ports.chance.jitter()
        self._ports.reach.connected = online
        if online:
            topic, present, _ = self.presence
            self._ports.link.publish(topic, present, qos=1, retain=True)
            self._tellings.tell_inventory()
        self._post.connected(online, self._record.outbox, self._now(), jitter)
        if online:
            self._apply(ev.LinkUp(jitter=jitter))
            self._tellings.let_metrics_go_on()

    def _finished(self, done: JobDone) -> None:
        self._lanes.finished(done.lane)
        done.then()
        if done.lane is Lane.BOOT:
            self._surveys.survey()
        if done.event is not None:
            self._apply(done.event)
        elif not done.noted and done.lane in (Lane.BOOT, Lane.STICK):
            (self._uptime if done.lane is Lane.BOOT else self._returning).begin(self._now())
        self._ports.reach.heard |= done.refreshed
        if done.brought is not None:
            self._take_brought(done.brought)
        if done.measured is not None and self._ports.metrics is not None:
            now, jitter = self._now(), self._ports.chance.jitter()
            self._ports.metrics.take(done.measured, self._time.seconds(now), now, jitter)
        if done.parts and self._ports.logs is not None:
            self._ports.logs.queue(done.parts, self._now())
        if done.lane in (Lane.CATALOGUE, Lane.RESTART):
            self._tellings.tell_inventory()
        if done.lane is Lane.CATALOGUE:
            for leaf, payload in self._gate.refreshed(self._now(), self._ports.chance.jitter()):
                self._open(leaf, payload)

    def _take_brought(self, brought: bringing.Brought) -> None:
        try:
            opened = bringing.as_brought(inbound.open_order(brought.envelope, self._gate, self._identity))
        except OtariaError as error:
            brought.reply(error)
            return
        now, why_not = self._now(), bringing.why_not(self.standing, opened)
        self._time.learn(opened.held.order.issued_at, now, until=self._gate.believed_until)
        known = bringing.is_known(self.standing, opened)
        self._apply(ev.LinkUp(jitter=0.0) if known else opened)
        brought.reply(opened.held.hash if why_not is None else RefusedError(why_not.kind, why_not.text))

    # One step

    def _apply(self, event: ev.Event) -> None:
        before, now = self.standing, self._now()
        after, commands = step(before, event, now, self._time.seconds(now), self._settings.tuning)
        tells = [command for command in commands if isinstance(command, do.Tell) and not self._is_noise(command, after)]
        box = self._record.outbox
        for tell in tells:
            box = reports.enqueue(box, tell, after, self._kept.facts())
        self._kept.store(replace(self._record, standing=after, outbox=box))
        self._log(event, tells)
        self._keep_log(event, after, now)
        self._post.send(box, now, self._ports.chance.jitter())
        if tells:
            self._return_reports()
        for tell in tells:
            self._add_hooks(tell)
            self._notice(_event_of(tell))
        for command in commands:
            if not isinstance(command, do.Tell) and not self._carry_out(command):
                return

    def _keep_log(self, event: ev.Event, after: Standing, now: float) -> None:
        """What was said goes into the log; a trial's log to where the other slot finds it."""
        desk, state = self._ports.logs, after.state
        if desk is None:
            return
        desk.hear(event)
        if isinstance(state, Trial):
            desk.in_trial(now, ends=state.gave_up is not None)

    def _add_hooks(self, tell: do.Tell) -> None:
        """Hooks that run after something that was reported."""
        point = _hooked(tell)
        if point is None or not self._ports.policy.has(point):
            return
        ports, stop = self._ports, StopFlag()
        self._hooks_stop = stop
        run = lambda: JobDone(lane=Lane.LOCAL, event=work.run_hooks(ports, point, tell, stop=stop))  # noqa: E731
        self._lanes.add(Job(lane=Lane.LOCAL, run=run))

    def _return_reports(self) -> None:
        """Write what waits beside the bundle, if there is one."""
        bundles, box = self._ports.bundles, self._record.outbox
        if bundles is None:
            return

        def run() -> JobDone:
            return JobDone(lane=Lane.STICK, noted=bundles.returns.write(box))

        self._lanes.drop(Lane.STICK)
        self._lanes.add(Job(lane=Lane.STICK, run=run))

    def _carry_out(self, command: do.Command) -> bool:
        """Do one command; False ends the step's commands."""
        if isinstance(command, do.SendAsk):
            self._send_ask(command)
        elif isinstance(command, do.TrySlot):
            return self._try_slot(command)
        elif isinstance(command, do.StopStaging):
            self._stops.pop(Lane.SLOT, StopFlag()).set()
            self._lanes.drop(Lane.SLOT)
        elif isinstance(command, do.GiveUp):
            self._tell_loader("give up", lambda: self._ports.boot.give_up(command.trial_id))
        elif isinstance(command, do.Reboot) and self._ports.switch is not None:
            self._switch(self._ports.switch)
        elif isinstance(command, do.Reboot):
            self.stop()
            self._tell_loader("reboot", self._ports.boot.reboot)
        elif not isinstance(command, do.Tell):
            self._add_job(command)
        return True

    def _add_job(self, command: do.Work) -> None:
        stop, lane = StopFlag(), dispatch.lane_of(command)
        moment = dispatch.Moment(
            standing=self.standing,
            hardware=self._identity.hardware,
            trusted_time=self.trusted_time(),
            jitter=self._ports.chance.jitter(),
            own_checks=self._settings.own_checks,
            progress=self._progress,
        )
        if lane is not None:
            self._stops[lane] = stop
        self._lanes.add(dispatch.job_of(command, self._ports, moment, stop))

    def _refresh(self) -> None:
        catalogue, trusted_time = self._ports.catalogue, self.trusted_time()
        run = lambda: JobDone(lane=Lane.CATALOGUE, refreshed=work.refresh(catalogue, trusted_time))  # noqa: E731
        self._lanes.add(Job(lane=Lane.CATALOGUE, run=run))

    # Commands

    def _send_ask(self, command: do.SendAsk) -> None:
        ask = Ask(
            target=self._identity.target,
            agent=self._identity.agent,
            order_hash=command.order_hash,
            counter=command.counter,
            boot_id=command.boot_id,
            nonce=command.nonce,
        )
        self._ports.link.publish(
            self._topic(topics.Leaf.REPORT), self._ports.notary.seal(canonical(ask), ASK_KIND), qos=1
        )

    def _try_slot(self, command: do.TrySlot) -> bool:
        try:
            self._ports.boot.try_slot(command.slot, command.trial_id, deadline_s=command.deadline_s)
        except (OtariaError, OSError) as error:
            reason = Reason(
                kind=getattr(error, "kind", "storage-fault"), text=f"The boot loader can't be asked: {error}"[:1024]
            )
            self._apply(ev.ActivationFailed(trial_id=command.trial_id, reason=reason))
            return False
        return True

    def _switch(self, switch: Switch) -> None:
        """A host's packages change while the agent goes on; asking again while they do changes nothing."""
        if not self._lanes.is_free(Lane.BOOT):
            return
        held = self.standing.state.held if isinstance(self.standing.state, Activating | Trial) else None
        progress = self._progress(held.hash if held else None, AgentState.ACTIVATING)
        self._lanes.add(
            Job(
                lane=Lane.BOOT,
                run=lambda: work.switch(
                    self._ports, switch, on_progress=lambda share, text: progress(int(share * 1000), 1000)
                ),
            )
        )

    def _tell_loader(self, what: str, call: Callable[[], None]) -> None:
        """The boot loader's own deadline covers for a request that can't be made."""
        try:
            call()
        except (OtariaError, OSError) as error:
            log.error("boot loader can't be reached", extra={"request": what, "reason": str(error)})

    def _progress(
        self, order_hash: str | None, state: AgentState = AgentState.DOWNLOADING
    ) -> Callable[[int, int], None]:
        """A callback for a job's thread: tells people how far it is, not more often than `progress_s`."""

        def tell(done: int, total: int) -> None:
            now = self._now()
            if now - self._progressed_at < self._settings.progress_s:
                return
            self._progressed_at = now
            note = Progress(progress=state, order_hash=order_hash, done=done, total=total)
            self._ports.link.publish(self._topic(topics.Leaf.REPORT), canonical(note), qos=0)
            self._notice({"event": "progress", "order": order_hash, "done": done, "total": total})

        return tell

    # Reports

    def _tend_metrics(self, desk: "MetricDesk", now: float) -> None:
        """Measure and tell at their times."""
        if desk.sample_at is not None and desk.sample_at <= now:
            desk.sample_at = None
            ports, stop = self._ports, StopFlag()
            self._stops[Lane.METRICS] = stop
            self._lanes.add(Job(lane=Lane.METRICS, run=lambda: work.measure(ports, desk, stop=stop)))
        if desk.tell_at is not None and desk.tell_at <= now:
            self._tellings.tell_metrics(desk)

    def _inventory(self) -> Inventory:
        """What this target is."""
        settings, way = self._settings, self._way()
        return Inventory(
            hardware=self._identity.hardware,
            agent_version=settings.agent_version,
            labels=self._labels(settings.labels),
            capabilities=list(settings.capabilities),
            encryption_key=self._encryption_key(),
            endpoint=way.endpoint,
            services_cas=list(way.services_cas),
        )

    def _is_noise(self, tell: do.Tell, after: Standing) -> bool:
        """Whether a report about an order that changes nothing would only help whoever floods us with such orders."""
        state = after.state
        current = isinstance(state, Refused) and state.held == tell.held
        is_note = tell.state is AgentState.REFUSED and not current
        return is_note and len(self._record.outbox.entries) >= self._settings.max_waiting_notes

    def _topic(self, leaf: topics.Leaf) -> str:
        return topics.of_target(self._identity.agent, self._identity.target, leaf)

    def _now(self) -> float:
        return self._ports.clock.seconds()

    def _log(self, event: ev.Event, tells: Sequence[do.Tell]) -> None:
        for tell in tells:
            facts = {
                "event": type(event).__name__,
                "state": tell.state.value,
                "target": self._identity.target,
                "change_id": tell.held.order.change_id if tell.held else None,
                "reason_kind": tell.reason.kind if tell.reason else None,
            }
            log.info("state %s", tell.state.value, extra=facts)


def _event_of(tell: do.Tell) -> dict[str, Any]:
    return {
        "event": "state",
        "state": tell.state.value,
        "order": tell.held.hash if tell.held else None,
        "change_id": tell.held.order.change_id if tell.held else None,
        "reason": {"kind": tell.reason.kind, "text": tell.reason.text} if tell.reason else None,
    }


def _hooked(tell: do.Tell) -> Point | None:
    """The hooks that go with a report."""
    if tell.state in (AgentState.FAILED, AgentState.FELL_BACK):
        return Point.ON_FAILURE if tell.reason and tell.reason.kind != ReasonKind.FAILURE_LOG else None
    if tell.reason is not None:  # said again, for another reason
        return None
    return {AgentState.TRIAL: Point.AFTER_ACTIVATION, AgentState.COMMITTED: Point.AFTER_COMMIT}.get(tell.state)


def presence_messages(agent: str, session: str) -> tuple[str, bytes, bytes]:
    """Topic, online payload and last will of an agent's session."""
    online, offline = (canonical(Presence(session=session, online=value)) for value in (True, False))
    return topics.presence(agent), online, offline
