"""One simulated device on the wire: the real agent over the ports of `parts`, its power, its boots and its cable.

Rules
- The world says what happens to it (`Member`, `Defects`), by the same chances as in virtual time: of an order by its number, of
  a release by the device's seed.
- A reboot throws the agent away and makes a new one from what was durable.
- A permit is followed from the moment the agent says `activating`; from then on the device counts as down, until it can say that
  it is up again.
"""

from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer

from device_agent.core.values import Content
from device_agent.identity import Identity
from device_agent.local.policy import LocalPolicy
from device_agent.ports import BootOutcome, Catalogue, Slot, SlotSets
from device_agent.runtime import Input, Runtime
from device_agent.work import Job, JobDone, Lane, Ports
from firmware.contents import ROOT_SET
from firmware.protocol.words import AgentState
from simulator.fakes import MemoryBoot
from simulator.virtual.battery import LOOK_S
from simulator.virtual.chances import seeded
from simulator.virtual.device import LATE_DEFECTS
from simulator.virtual.presence import NEVER, Presence
from simulator.virtual.world import Member
from simulator.wire.by_blocks import BlockInstaller, ByBlocks, ByteSlots, WantedBy
from simulator.wire.charge import Charge
from simulator.wire.fate import Fate
from simulator.wire.parts import ROOM, Blob, Checks, Flash, Installer, Luck, Notary, Programs, Reachable, Slots
from simulator.wire.plan import Moment, Truth
from simulator.wire.ports import Common
from simulator.wire.reach import Reach

CRASH_AGAIN_S = 0.5
ROUNDING_S = 1e-6
_UP = frozenset(
    {AgentState.COMMITTED, AgentState.FELL_BACK, AgentState.FAILED, AgentState.REFUSED, AgentState.CANCELLED}
)


class Device:
    """All calls come on the hub's thread."""

    __slots__ = (
        "_begins",
        "_boot",
        "_by_blocks",
        "_checks",
        "_common",
        "_effects",
        "_fate",
        "_hub",
        "_identity",
        "_installer",
        "_is_there",
        "_is_unplugged",
        "_luck",
        "_notary",
        "_order",
        "_orders",
        "_pace",
        "_paced_at",
        "_paced_from",
        "_pem",
        "_policy",
        "_ports",
        "_power",
        "_presence",
        "_reach",
        "_runtime",
        "_slots",
        "_staged_at",
        "_stays",
        "_wakes_at",
        "boots",
        "is_bricked",
        "is_down",
        "member",
    )

    def __init__(
        self,
        common: Common,
        member: Member,
        identity: Identity,
        pem: Path,
        signer: Signer,
        *,
        seed: int,
        begins: float,
        like: str = "",
        flash: Flash | None = None,
    ) -> None:
        """`like`: by whose chances its hardware fails, unless by its own; `flash`: what it keeps already."""
        self.member, self._identity, self._common, self._hub = member, identity, common, common.hub
        self._pem = pem
        own = seeded(seed, like or member.id)
        self._fate = Fate(member, own, common.defects, common.sizes)
        self._pace, self._paced_at, self._paced_from = member.pace, 0.0, 0.0
        self.boots = 0
        self.is_bricked = self.is_down = self._is_unplugged = False
        self._presence = Presence(
            seed=own,
            week=member.week,
            spell_h=member.spell_h,
            site_seed=seeded(seed, member.site),
            outages=member.outages,
            wakes_at=begins + member.asleep_s if member.asleep_s else 0.0,
        )
        self._luck = Luck(seeded(own, member.id) if like else own)
        self._by_blocks: ByBlocks | None = None
        self._keep(flash or self._new_flash())
        self._notary = Notary(common.keys, signer)
        self._checks = Checks(lambda: self._fate.harm(self._running()) != "fails-health")
        self._reach = Reach(self, common, identity, pem, signer, self._luck, own)
        self._ports: Ports | None = None
        self._runtime: Runtime | None = None
        self._power = self._is_there = self._stays = False
        self._order, self._orders = "", 0
        self._staged_at = 0.0
        self._policy, self._begins = LocalPolicy(), begins
        if member.battery is not None:
            self._policy = Charge(self._has_charge, retry_s=self._hub.wall_s(LOOK_S))
        self._wakes_at = NEVER

    # The hub's calls

    @property
    def is_connected(self) -> bool:
        return self._reach.is_up

    def seconds(self) -> float:
        """The device's monotonic clock."""
        return self._paced_from + (self._hub.now() - self._paced_at) * self._pace

    def keep_time(self, pace: float) -> None:
        """Let its clock go so fast, of what is usual for it, from now on."""
        self._paced_from, self._paced_at, self._pace = self.seconds(), self._hub.now(), pace * self.member.pace
        self._wakes_at = NEVER
        self._after()

    def _true(self, at: float) -> float:
        """When its clock will show this, for certain: rounding must not call it a moment before, again and again."""
        return self._paced_at + (at - self._paced_from) / self._pace + (ROUNDING_S if self._pace != 1 else 0.0)

    def power_on(self) -> None:
        """Boot: a new agent on what was durable."""
        if self._power or self.is_bricked or self._is_unplugged:
            return
        self._boot.power_on()
        self._power = True
        self.boots += 1
        if self._fate.harm(self._running()) == "bricks":
            self.is_bricked = True
            self.power_cut(again=False)
        elif self._boot.tried > 1:  # each boot that came to nothing took its time
            number, took_s = self.boots, (self._boot.tried - 1) * self._common.tempo.boot_s
            self._hub.later(self._hub.now() + took_s, lambda: self._come_up() if number == self.boots else None)
        else:
            self._come_up()

    def _come_up(self) -> None:
        if not self._power:
            return
        status = self._boot.status()
        self._is_there = self._stays or self._presence.is_there(self._hub.world_now())
        self._runtime = runtime = Runtime(
            identity=self._identity,
            ports=self._new_ports(),
            directory=ROOM,
            settings=self._common.settings(
                self._hub.wall_s(self.member.health_s), clear_first=self._policy.asks_before_activation
            ),
            identify_slot=self._identify,
            session=self._luck.nonce(),
            notice=self._notice,
        )
        topic, _, will = runtime.presence
        self._reach.promise(topic, will)
        runtime.start()
        self._after()
        self.look()
        if status.outcome is BootOutcome.TRIAL and self._boot.deadline_at is not None:
            self._hub.later(self._true(self._boot.deadline_at), self._look_at_trial)
        if self._fate.is_crashing(self._running()):
            self._hub.later(self._hub.now() + CRASH_AGAIN_S, self._crash_again)

    def power_cut(self, *, again: bool = True) -> None:
        """Lose everything that isn't durable; it boots again after a while, unless it may not."""
        if self._runtime is not None:
            self._runtime.stop()
        if self._power and self._boot.state.trial is None:
            self._fate.spend(self._running())
        self._runtime, self._power, self._wakes_at = None, False, NEVER
        self._reach.cut()
        if self._by_blocks is not None:
            self._by_blocks.end()
            self._by_blocks = None
        if again and not self.is_bricked:
            boot_s = self._common.tempo.boot_s * (0.5 + self._luck.jitter())
            self._hub.later(self._hub.now() + boot_s, self.power_on)

    def unplug(self) -> None:
        """Lose power for good."""
        self._is_unplugged = True
        self.power_cut(again=False)

    def twin(self, member: Member, flash: Flash, *, seed: int, begins: float) -> "Device":
        """Another device with this one's keys and hardware, which the world calls otherwise; it has no power yet."""
        common, identity, signer = self._common, self._identity, self._notary.signer
        like = self.member.id
        return Device(common, member, identity, self._pem, signer, seed=seed, begins=begins, like=like, flash=flash)

    def flash(self) -> Flash:
        """A copy of what it keeps."""
        return Flash(effects=self._effects.copy(), slots=self._slots.copy(), loader=self._boot.state)

    def wipe(self) -> None:
        """Be flashed anew: the factory's image, and nothing remembered but who it is."""
        if self.is_bricked:
            return
        self.power_cut()
        self._keep(self._new_flash())
        self._fate.forget()
        self._order = ""
        if self.is_down:
            self.is_down = False
            self._tell("up", "", AgentState.IDLE)

    def look(self) -> None:
        """See whether it is there, by its habit, and connect or go away."""
        world = self._hub.world_now()
        self._is_there = self._stays or self._presence.is_there(world)
        changes_at = self._presence.goes(world) if self._is_there else self._presence.comes(world)
        if changes_at < NEVER and self._power and not self._stays:
            number = self.boots
            in_s = self._hub.wall_s(max(changes_at - world, 1.0))
            self._hub.later(self._hub.now() + in_s, lambda: self.look() if number == self.boots else None)
        if self._is_there:
            self._hub.connect(self)
        elif not self._reach.is_idle:
            self._reach.go_away()

    def gather(self) -> None:
        """Be there from now on, whatever its habit."""
        self._stays = True
        self._reach.rest(True)
        if self._power:
            self.look()

    def disperse(self) -> None:
        """Be there by its habit again."""
        self._stays = False
        self._reach.rest(False)
        if self._power:
            self.look()

    def dial(self) -> bool:
        """Begin to connect; False when it need not."""
        return self._power and self._is_there and self._reach.dial()

    @property
    def is_dialling(self) -> bool:
        return self._reach.is_dialling

    @property
    def is_running(self) -> bool:
        return self._runtime is not None

    @property
    def is_reachable(self) -> bool:
        """Whether it has power, and is there."""
        return self._power and self._is_there

    def freeze(self, for_s: float) -> None:
        """A partition: nothing comes, nothing goes, and nobody is told. Ends after a while, with a new connection."""
        self._reach.freeze(for_s)

    def wake(self) -> None:
        """Do what the device's clock makes due."""
        runtime = self._runtime
        if runtime is None or self._hub.now() < self._wakes_at:
            return
        self._wakes_at = NEVER
        runtime.due()
        self._after()

    def finished(self, number: int, done: JobDone) -> None:
        """A job's answer, unless the device was restarted meanwhile."""
        if self._runtime is None or number != self.boots:
            return
        if done.lane is Lane.SLOT and (late_s := self._reach.owed_s()):
            self._hub.later(self._hub.now() + late_s, lambda: self.finished(number, done))
            return
        self._runtime.handle(done)
        self._runtime.due()
        self._after()

    def staged_after_s(self, job: Job) -> float:
        """How long the job that just ran takes the device, beside what it took here; what it loads comes while it is there."""
        loads_s, reads_s = self._installer.took() if job.lane is Lane.SLOT else (0.0, 0.0)
        if not loads_s:
            return 0.0
        if not self._stays:
            begins = self._hub.world_now()
            takes_s = self._hub.wall_s(self._presence.done(begins, loads_s) + reads_s - begins)
        else:
            takes_s = self._hub.wall_s(loads_s + reads_s)
        self._reach.loads(takes_s)
        return takes_s

    def truth(self) -> Truth:
        """What it is."""
        blob = self._slots.holds(self._boot.status().slot) if self.boots else self._common.factory
        runtime = self._runtime
        waiting = runtime.waiting_reports if runtime is not None else -1
        return Truth(
            member=self.member.id,
            target=self._identity.target,
            version=blob.version if blob is not None else "",
            sha256=blob.sha256 if blob is not None else "",
            state=self.word,
            order=self._order,
            is_up=self._power and not self.is_down,
            is_bricked=self.is_bricked,
            is_connected=self.is_connected,
            journal=self._notary.journal,
            said=bytes(self._notary.said),
            acked=len(self._notary.said) // 16 - max(waiting, 0) if waiting >= 0 else -1,
            waiting=waiting,
            orders=self._orders,
            earlier=self._notary.earlier,
            misdeeds=self._reach.misdeeds,
        )

    # The agent

    def took_block(self, payload: bytes) -> None:
        """A block came over its cable."""
        if self._by_blocks is not None:
            self._by_blocks.receive(payload)

    def handle(self, happened: Input) -> None:
        """Something came over its cable, or the cable itself did."""
        if self._runtime is not None:
            self._runtime.handle(happened)
            self._runtime.due()
            self._after()

    def _after(self) -> None:
        """Run the jobs that a call left, reboot if it asked for that, and note when it wants to be woken."""
        runtime = self._runtime
        if runtime is None:
            return
        for job in runtime.take_jobs():
            self._run(job)
        if self._runtime is not runtime:
            return
        if self._boot.reboot_asked or self._boot.trial_is_lost():
            self.power_cut()
            return
        wake = runtime.next_wake()
        if wake is not None and self._true(wake) < self._wakes_at:
            self._wakes_at = self._true(wake)
            self._hub.later(self._wakes_at, self.wake)

    def _run(self, job: Job) -> None:
        self._hub.run(self, self.boots, job)

    def _look_at_trial(self) -> None:
        if self._runtime is not None and self._boot.trial_is_lost():
            self.power_cut()

    def _notice(self, event: dict[str, Any]) -> None:
        if event.get("event") != "state":
            return
        state, order = AgentState(event["state"]), event.get("order") or ""
        if order and order != self._order and state in (AgentState.ORDERED, AgentState.DOWNLOADING, AgentState.STAGED):
            self._order, self._orders, self._staged_at = order, self._orders + 1, 0.0
        if state is AgentState.STAGED and not self._staged_at:
            self._staged_at = self._hub.world_now()
        if state is AgentState.ACTIVATING and not self.is_down:
            self.is_down = True
            self._tell("down", order, state, event.get("change_id") or "")
        elif state in _UP and self.is_down:
            self.is_down = False
            self._tell("up", order, state)
        else:
            self._tell("said", order, state)
        if state is AgentState.COMMITTED:
            self._leak()

    def _tell(self, kind: str, order: str, state: AgentState, change: str = "") -> None:
        moment = Moment(
            at=self._hub.now(), member=self.member.id, kind=kind, order=order, state=state.value, change=change
        )
        self._hub.tell(moment)

    @property
    def word(self) -> str:
        """Where its agent is with its order, or `off`, or `bricked`."""
        if self.is_bricked:
            return "bricked"
        return "off" if self._runtime is None else str(type(self._runtime.standing.state).__name__).lower()

    def _keep(self, flash: Flash) -> None:
        """From now on this is what it keeps."""
        self._effects, self._slots = flash.effects, flash.slots
        programs, name = Programs(self._program_runs), self._luck.nonce()[:16]
        self._boot = MemoryBoot(self._slots, programs, self.seconds, name=name, state=flash.loader)
        site, place = self._common.site, self.member.site
        self._installer: Installer | BlockInstaller = Installer(
            site,
            place,
            self._slots,
            fails=lambda: self._fate.flash_fails(self._orders),
            loads=self._fate.loading_s,
            reads=self._fate.reading_s,
        )

    def _new_flash(self) -> Flash:
        return Flash.new(self._common.factory, ByteSlots if self.member.is_mqtt_only else Slots)

    def _new_ports(self) -> Ports:
        common, slots = self._common, self._slots
        catalogue: Catalogue = Reachable(common.site, self._loads)
        if isinstance(slots, ByteSlots):
            self._by_blocks = own = ByBlocks(
                common,
                self.member,
                slots,
                wanted=WantedBy(self._reach, self._identity),
                effects=self._effects,
                luck=self._luck,
                fate=self._fate,
                seconds=self.seconds,
                fails=lambda: self._fate.flash_fails(self._orders),
            )
            catalogue, self._installer = own.catalogue, own.installer
            self._notary.go_by(own.keys)
        return Ports(
            effects=self._effects,
            slots={ROOT_SET: self._slots},
            boot=self._boot,
            catalogue=catalogue,
            notary=self._notary,
            installer=self._installer,
            health=self._checks,
            link=self._reach,
            clock=self,
            chance=self._luck,
            policy=self._policy,
        )

    def _identify(self, sets: SlotSets, slot: Slot) -> Content | None:
        blob = self._slots.holds(slot)
        return None if blob is None else blob.content(self._common.product)

    # What the world does to it

    def _running(self) -> Blob | None:
        return self._slots.holds(self._boot.status().slot)

    def _program_runs(self, blob: Blob) -> bool:
        return self._fate.comes_up(blob, self._orders, is_trial=self._boot.is_trial)

    def _loads(self) -> bool:
        """Whether it reaches anything by HTTP. Before the world begins everybody does."""
        is_held = self.member.is_captive and self._hub.world_now() >= self._begins
        return self._is_there and not (is_held or self._reach.is_frozen)

    def _has_charge(self) -> bool:
        battery, now = self.member.battery, self._hub.world_now()
        return battery is None or battery.enough_at(now, self._staged_at or now) <= now

    def _leak(self) -> None:
        """What it committed may crash later, or not outlive its next restart."""
        blob = self._running()
        found = self._fate.defect(blob)
        if blob is None or found is None or found[0] not in LATE_DEFECTS:
            return
        at = self._hub.now() + self._hub.wall_s(found[1])
        if found[0] == "crashes":
            self._hub.later(at, lambda: self._crash(blob.sha256))
        else:
            self._hub.later(at, lambda: self._restart(blob.sha256))

    def _restart(self, sha256: str) -> None:
        """Somebody restarts it, if it still runs this."""
        running = self._running()
        if self._power and running is not None and running.sha256 == sha256:
            self.power_cut()

    def _crash(self, sha256: str) -> None:
        self._fate.crashes(sha256)
        self._crash_again()

    def _crash_again(self) -> None:
        """From now on it crashes soon after each boot, until the boot loader goes back."""
        if self._power and self._fate.is_crashing(self._running()):
            self.power_cut()
