"""Composition root of a site agent: one process, and in it for each box an agent of its own with its own directory, keys, journal
and connection. The server sees as many agents; that they speak for boxes is in what they report.

The boxes share one asyncio loop, on which all SSH is done. Catalogue, keys and downloads are worked on in this process, not in
workers: a process for each box would cost more than all else.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from device_agent.app import SystemChance, sole_agent
from device_agent.appliances.course_file import CourseFile
from device_agent.appliances.credentials import reader
from device_agent.appliances.dialect import Dialect
from device_agent.appliances.dialect_file import load_dialect
from device_agent.appliances.driver import BoxIdentity
from device_agent.appliances.pilot import Expected, Pilot
from device_agent.appliances.ports import BoxBoot, BoxHealth, BoxInstaller, BoxSlots, Caller
from device_agent.appliances.settings import BOXES, Appliance
from device_agent.appliances.ssh_line import Address, SshLines
from device_agent.boot.kernel import BOOT_ID
from device_agent.config import Config, runtime_settings, upkeep_pace
from device_agent.core.events import Booted
from device_agent.effects import FileEffects
from device_agent.health.reach import Reach
from device_agent.health.runner import HealthRunner
from device_agent.identity import load_identity
from device_agent.loop import AgentLoop
from device_agent.monotonic import BootClock
from device_agent.ports import Effects, Slot, WayTaken
from device_agent.runtime import Runtime, presence_messages
from device_agent.transport.mqtt import Broker, MqttLink, Will
from device_agent.transport.ways import Ways
from device_agent.trusted_time import BUILD_TIME
from device_agent.upkeep import Upkeep
from device_agent.work import JobDone, Lane, Ports
from device_agent.worker.app import compose as compose_tools
from device_agent.worker.service import Tools
from device_agent.worker.wire import Up, Wanted
from firmware.contents import ROOT_SET
from firmware.errors import OtariaError, RefusedError
from firmware.manifest import Manifest
from firmware.protocol.order import FileRef, Order
from firmware.protocol.topics import Leaf, of_target

log = logging.getLogger(__name__)
JOIN_S = 10.0
AGAIN_S, AGAIN_AT_MOST_S = 1.0, 300.0
"""Pauses after a defect of a box's agent."""
ATTESTED = {"attested_by": "site-agent"}
"""In the evidence of every report: the box signed nothing of it."""


class LoopSleeper:
    """`Sleeper` of the shared loop."""

    def seconds(self) -> float:
        return BootClock().seconds()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class BoxAgent:
    """A composed agent of one box, not started yet."""

    name: str
    loop: AgentLoop
    upkeep: Upkeep
    boot: BoxBoot
    pilot: Pilot

    @property
    def is_busy(self) -> bool:
        """Whether something of it still runs after `run` has ended."""
        return self.loop.is_busy or self.boot.is_busy

    def run(self) -> None:
        """Run until stopped. Raises what ended it."""
        self.boot.settle()
        self.upkeep.start()
        try:
            self.loop.run()
        finally:
            self.upkeep.stop()

    def stop(self) -> None:
        self.boot.stop()
        self.loop.stop()


def run_site(directory: Path, config: Config) -> None:
    """Run the agents of all boxes until SIGTERM or SIGINT. Raises `RefusedError` (`bad-config`, `bad-dialect`) or
    `UnavailableError` (`agent-running`, `not-enrolled`) before any has begun."""
    logging.getLogger("device_agent").setLevel(config.log_level.upper())
    with contextlib.ExitStack() as held:
        held.enter_context(sole_agent(directory))
        call = Caller(held.enter_context(_shared_loop()))
        shifts = [Shift(partial(compose_box, directory, config, one, call)) for one in config.appliances]
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        work(shifts, ended)
        with contextlib.suppress(OtariaError, OSError):
            call(_hang_up([shift.agent for shift in shifts]))


def work(shifts: "Sequence[Shift]", ended: threading.Event) -> None:
    """Let all shifts work, a thread each, until `ended` is set."""
    threads = [threading.Thread(target=one.work, name=one.agent.name, daemon=True) for one in shifts]
    for thread in threads:
        thread.start()
    while not ended.wait(1.0):
        pass
    for one in shifts:
        one.stop()
    for thread in threads:
        thread.join(JOIN_S)


class Shift:
    """One box's agent, and after a defect of it the next one: what a box provokes is no other box's trouble."""

    def __init__(
        self, compose: Callable[[], BoxAgent], *, first_s: float = AGAIN_S, last_s: float = AGAIN_AT_MOST_S
    ) -> None:
        """Composes the first one at once, and raises what that raises. `first_s`, `last_s`: the pauses after defects, doubled
        from one to the other."""
        self._compose, self._pause_s, self._last_s = compose, first_s, last_s
        self._over = threading.Event()
        self.agent = compose()

    def work(self) -> None:
        """Run one agent after the other until stopped."""
        while not self._over.is_set():
            try:
                self.agent.run()
            except Exception as error:
                text = "a box's agent ended by a defect; it begins again from what it has stored"
                log.exception(text, extra={"box": self.agent.name, "reason": str(error)})
                self._follow()

    def stop(self) -> None:
        """End `work` soon; from any thread."""
        self._over.set()
        self.agent.stop()

    def _follow(self) -> None:
        """The next agent, once nothing of this one can touch what is stored."""
        self.agent.stop()
        while not self._over.wait(self._pause_s):
            self._pause_s = min(self._pause_s * 2, self._last_s)
            if self.agent.is_busy:
                continue
            try:
                self.agent = self._compose()
            except Exception as error:
                log.exception("a box's agent can't begin", extra={"box": self.agent.name, "reason": str(error)})
            else:
                return


async def _hang_up(boxes: list[BoxAgent]) -> None:
    await asyncio.gather(*(box.pilot.close() for box in boxes), return_exceptions=True)


@contextlib.contextmanager
def _shared_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop of all SSH, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="ssh", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(JOIN_S)
        if not thread.is_alive():
            loop.close()


def compose_box(directory: Path, config: Config, box: Appliance, call: Caller) -> BoxAgent:
    """The agent of one box, in `boxes/NAME` of the site agent's directory."""
    home = (directory / BOXES / box.name).absolute()
    identity, effects, clock = load_identity(home), FileEffects(), BootClock()
    pilot = pilot_of(directory, home, box, effects)
    boot = BoxBoot(pilot, call, effects.read_at(BOOT_ID, 0, 64).decode().strip())
    slots = BoxSlots(effects, home, pilot, box.max_image)
    runtime: Runtime | None = None

    def now() -> float:
        return float(BUILD_TIME) if runtime is None else runtime.trusted_time()

    ways = Ways(home, identity, now)
    wants = of_target(identity.agent, identity.target, Leaf.WANT)
    tools = compose_tools(home, _Told(lambda want: link.publish(wants, want, qos=1)), site=(config, {ROOT_SET: slots}))
    session = secrets.token_urlsafe(18)
    topic, _, will = presence_messages(identity.agent, session)
    wait = config.intervals
    link = MqttLink(
        Broker(
            host=identity.mqtt_host,
            port=identity.mqtt_port,
            reconnect_min_s=wait.reconnect_min_s,
            reconnect_max_s=wait.reconnect_max_s,
        ),
        identity.agent,
        Will(topic=topic, payload=will),
        tls=None,
        ways=ways,
        on_block=tools.blocks.receive,
    )
    beside = _Beside(tools, now, ways, lambda: upkeep.nudge())
    upkeep = Upkeep(
        ways=ways,
        renewer=beside,
        link=link,
        answers=tools.answers,
        endpoints=lambda: tools.facts().endpoints,
        trusted_time=now,
        jitter=SystemChance().jitter,
        pace=upkeep_pace(config),
        on_defect=lambda error: loop.fail(error),
    )
    reach = Reach()
    ports = Ports(
        effects=effects,
        slots={ROOT_SET: slots},
        boot=boot,
        catalogue=beside,
        notary=tools.notary,
        installer=BoxInstaller(beside, slots, pilot, call),
        health=BoxHealth(HealthRunner(reach=reach), boot, pilot, call),
        reach=reach,
        link=link,
        clock=clock,
        chance=SystemChance(),
    )
    runtime = Runtime(
        identity=identity,
        ports=ports,
        directory=home,
        settings=runtime_settings(config, version("otaria")),
        session=session,
        identify_slot=lambda sets, slot: None,
        way=lambda: WayTaken(endpoint=ways.current.https_url, services_cas=ways.services_cas),
        encryption_key=lambda: tools.facts().encryption_key,
        labels=lambda given: {**given, **_labels(box, boot)},
        evidence=lambda: {**ATTESTED, "box": _seen(box, boot)},
    )
    loop = AgentLoop(runtime, link, clock, on_online=upkeep.online)
    boot.on_defect = loop.fail
    boot.on_restarted = lambda: loop.take(JobDone(lane=Lane.RESTART, event=Booted(status=boot.status())))
    return BoxAgent(name=box.name, loop=loop, upkeep=upkeep, boot=boot, pilot=pilot)


def pilot_of(directory: Path, home: Path, box: Appliance, effects: Effects) -> Pilot:
    """Who takes this box along. Raises `RefusedError` (`bad-config`, `bad-dialect`)."""
    dialect = load_dialect(directory, box.dialect)
    _require_compared(box, dialect)
    expected = Expected(
        identity=BoxIdentity(serial=box.serial, model=box.model),
        single_image=box.single_image,
        compare=box.compare,
        config_may_change=box.config_may_change,
        settle_s=box.settle_s,
    )
    return Pilot(
        SshLines(address_of(directory, box), dialect.session),
        dialect,
        expected,
        CourseFile(effects, home),
        LoopSleeper(),
    )


def address_of(directory: Path, box: Appliance) -> Address:
    """Where the box is and how to be let in."""
    return Address(
        host=box.address,
        port=box.port,
        user=box.user,
        host_keys=box.host_keys,
        password=reader(directory, box.password) if box.password else None,
        key=reader(directory, box.key) if box.key else None,
    )


def _require_compared(box: Appliance, dialect: Dialect) -> None:
    for name in box.compare:
        if name not in dialect.compare:
            can = ", ".join(sorted(dialect.compare)) or "nothing"
            raise RefusedError("bad-config", f"{box.name}: {dialect.dialect} compares {can}, and no {name!r}.")


def _labels(box: Appliance, boot: BoxBoot) -> dict[str, str]:
    """What campaigns may select a box by."""
    running = {"running": boot.facts.running[:128]} if boot.facts else {}
    return {
        "kind": "appliance",
        "attested-by": ATTESTED["attested_by"],
        "dialect": box.dialect[:128],
        "model": box.model,
        "serial": box.serial,
        **running,
    }


def _seen(box: Appliance, boot: BoxBoot) -> dict[str, Any]:
    """What the box said last of itself."""
    facts = boot.facts
    said = {"running": facts.running, "permanent": facts.permanent, "boot": facts.boot} if facts else {}
    return {"serial": box.serial, "model": box.model, **said}


class _Told:
    """Hears what a worker would say to its agent."""

    def __init__(self, want: Callable[[bytes], object]) -> None:
        self._want = want

    def say(self, frame: Up) -> None:
        if isinstance(frame, Wanted):
            self._want(frame.payload)


class _Beside:
    """What a worker would do, done here: catalogue, installer and renewal, each told time and way first."""

    def __init__(self, tools: Tools, now: Callable[[], float], ways: Ways, on_refresh: Callable[[], None]) -> None:
        self._tools, self._now, self._ways, self._on_refresh = tools, now, ways, on_refresh
        self.file, self.verify = tools.catalogue.file, tools.installer.verify

    def refresh(self, now: float) -> None:
        self._set_out().catalogue.refresh(now)
        self._on_refresh()

    def use_held(self, now: float) -> None:
        self._tools.catalogue.use_held(now)

    def bring(self, path: Path, envelope: bytes, now: float) -> None:
        self._tools.catalogue.bring(path, envelope, now)

    def manifest(self, file: FileRef) -> Manifest:
        return self._set_out().catalogue.manifest(file)

    def stage(
        self,
        order: Order,
        manifest: Manifest,
        *,
        active: Slot,
        on_progress: Callable[[int, int], None],
        stop: Callable[[], bool],
        envelope: bytes = b"",
    ) -> dict[str, object]:
        return self._set_out().installer.stage(
            order, manifest, active=active, on_progress=on_progress, stop=stop, envelope=envelope
        )

    def look(self, trusted_time: float) -> bool:
        return self._set_out().renewer.look(trusted_time)

    def _set_out(self) -> Tools:
        self._tools.set_out(self._now(), self._ways.current)
        return self._tools
