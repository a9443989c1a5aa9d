"""One device and its server in one thread: the real runtime, installer, slots, boot control and a boot loader's rules over a disk
that can lose power, with virtual time. The server's side remembers what it saw across cuts, as a real one does."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from securesystemslib.signer import CryptoSigner

from device_agent.boot.files import read_state
from device_agent.boot.loader import Boot, LoaderState
from device_agent.bundle.bringing import Bundles
from device_agent.core.states import Activating, Trial
from device_agent.core.values import Tuning
from device_agent.identity import Identity
from device_agent.install.stream import StreamInstaller
from device_agent.journal import JOURNAL_FILE
from device_agent.local.policy import LocalPolicy
from device_agent.notary import KeyNotary
from device_agent.ports import BootControl, Catalogue, Director, HealthResult, Incoming, Link, Slot, Source
from device_agent.runtime import Connected, Runtime, Settings
from device_agent.work import Ports
from firmware.checks import Watch
from firmware.contents import ROOT_SET
from firmware.errors import UnavailableError
from firmware.manifest import HealthCheck
from firmware.protocol.order import Counter
from tests.crash.broken import BrokenRuleError
from tests.crash.disk import Disk, Medium
from tests.crash.loaders import BOARD, Loader, Simulated
from tests.crash.releases import BODY_BYTES, Release, release
from tests.crash.server import NOW, Depot, DepotCatalogue, Server

__all__ = ["BOARD", "ENDED", "IDENTITY", "NOW", "Depot", "DepotCatalogue", "Release", "World", "release"]
AGENT = BOARD.agent
JOURNAL = str(AGENT / JOURNAL_FILE)
BEGIN_S = 1000.0
LEAST_CAPACITY = 1 << 14
IDENTITY = Identity(
    agent="dev-1",
    target="dev-1",
    hardware="board-1",
    mqtt_host="127.0.0.1",
    mqtt_port=1,
    https_url="https://127.0.0.1",
    root_sha256="0" * 64,
)
ENDED = {"committed", "fell_back", "failed", "refused", "cancelled"}


@dataclass
class Clock:
    """Virtual monotonic seconds."""

    now: float = 1000.0

    def seconds(self) -> float:
        return self.now


class Chance:
    """Counts instead of rolling dice; the world's, so that no nonce repeats after a cut."""

    def __init__(self) -> None:
        self.rolled = 0

    def nonce(self) -> str:
        self.rolled += 1
        return f"nonce-{self.rolled:018}"

    def boot_id(self) -> str:
        self.rolled += 1
        return f"{self.rolled:08x}-0000-4000-8000-000000000000"

    def jitter(self) -> float:
        return 0.5


class Checks:
    """`Health`: the running slot's version decides."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Callable[[], bool]) -> HealthResult:
        version, world = self._world.running_version(), self._world
        is_trial = world.runtime is not None and isinstance(world.runtime.standing.state, Trial)
        healthy = version not in world.faulty and not (version in world.faulty_later and not is_trial)
        return HealthResult(healthy=healthy, text="All is well." if healthy else "GET /health answered 500.")


class Wire:
    """`Link` straight to the server's model; answers are queued for the device."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def start(self, on_message: Callable[[Incoming], None], on_connected: Callable[[bool], None]) -> None:
        raise AssertionError("the world drives the runtime itself")

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        if self._world.online:
            self._world.published.append((topic, payload))
        return self._world.online

    def stop(self) -> None:
        return


class World:
    """A device with a server. `run` powers it until the order has ended and every report is acked."""

    def __init__(
        self,
        *,
        faulty: set[str] | None = None,
        runtime: type[Runtime] = Runtime,
        watch: Watch | None = None,
        policy: LocalPolicy | None = None,
        consent: bool = False,
        loader: Loader | None = None,
        body_bytes: int = BODY_BYTES,
        min_uptime_s: float | None = None,
        images: Sequence[str] = (ROOT_SET,),
        unchanged: Sequence[str] = (),
    ) -> None:
        """`watch`: what the new release wants; `policy`: what the device does. Versions in `faulty_later` fail their checks once
        they are committed; those in `hanging` never start the agent. `images`: the slot sets of device and releases, such as
        `("root", "boot", "app")`; those `unchanged` are the same in both releases."""
        self.director, self.report_signer = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
        self.runtime_class = runtime
        self.policy, self.consent, self.min_uptime_s = policy or LocalPolicy(), consent, min_uptime_s
        self.faulty = faulty or set()
        self.faulty_later: set[str] = set()
        self.hanging: set[str] = set()
        self.sets = tuple(images)
        self.old = release("1.0", 1, sets=images, unchanged=unchanged, body_bytes=body_bytes)
        self.new = release("2.0", 2, sets=images, unchanged=unchanged, watch=watch, body_bytes=body_bytes)
        key = self.director.public_key
        self.depot = Depot(Director(epoch=1, keys={key.keyid: key.to_dict()}), [self.old, self.new])
        report_key = self.report_signer.public_key
        self.server = Server(self.director, {report_key.keyid: report_key})
        self.chance, self.published = Chance(), []
        self.online, self.restarts_agent, self.in_loader = True, False, False
        self.boots: list[Boot] = []
        self.loader = loader or Simulated()
        self.capacity = max(LEAST_CAPACITY, -(-len(self.new.image) * 5 // 4 // LEAST_CAPACITY) * LEAST_CAPACITY)
        fresh = {(Slot.A, name): image.ljust(self.capacity, b"\0") for name, image in self.old.images.items()}
        fresh |= {(Slot.B, name): bytes(self.capacity) for name in self.sets}
        self.disk = Disk(system=self.loader.system(Medium(self.loader.factory(fresh))))
        self.runtime: Runtime | None = None
        self.clock = Clock()

    # Power

    def run(self, *, max_boots: int = 12, until: Callable[[], bool] | None = None) -> None:
        """Power on, boot after boot. Raises `PowerCut` from the disk; fails when it takes too many boots."""
        for _ in range(max_boots):
            if self._one_boot(until or self.settled):
                return
        outcomes = [boot.outcome.value for boot in self.boots]
        raise BrokenRuleError("converges", f"no end after {max_boots} boots: {outcomes}")

    def after_cut(self, keep: str) -> None:
        """Replace the machine: only the medium's bytes remain, and the server."""
        self.replace_machine(self.disk.system.medium(keep))

    def replace_machine(self, medium: Medium) -> None:
        """Another machine with these bytes."""
        self.disk = Disk(system=self.loader.system(medium))
        self.disk.promised[JOURNAL] = (medium.files.get(JOURNAL),)
        self.runtime, self.published = None, []

    def _reset(self) -> None:
        """The watchdog's: nothing more is flushed."""
        before = self.disk.system
        self.replace_machine(before.medium("none"))
        self.disk.system.trace, self.disk.system.watch = before.trace, before.watch
        self.disk.system.cut = before.cut

    def settled(self) -> bool:
        """Whether the newest order has ended, as the server knows, and nothing waits in the outbox."""
        runtime = self.runtime
        if runtime is None or runtime.waiting_reports or not self.server.told or not self.has_stayed_up():
            return False
        last = self.server.told[-1]
        return last.state.value in ENDED and last.counter == Counter(epoch=1, n=self.server.n)

    def at_rest(self) -> bool:
        """Whether the device has come as far as it can without a network."""
        runtime = self.runtime
        return runtime is not None and not isinstance(runtime.standing.state, Activating | Trial)

    def has_stayed_up(self) -> bool:
        """Whether the boot loader was told that this boot stays up, where the agent is to tell it."""
        return self.min_uptime_s is None or self.clock.now >= BEGIN_S + self.min_uptime_s

    def running_version(self) -> str:
        return self.version_in(self.boots[-1].slot)

    def version_in(self, slot: Slot) -> str:
        data = self.disk.read_at(self.loader.slot_path(slot), 512, 200)
        return str(json.loads(data.rstrip(b"\0"))["version"])

    def holds(self, slot: Slot, what: Release, files: Mapping[str, bytes] | None = None) -> bool:
        """Whether a slot holds a release's image in every set: on a medium, or now."""
        files = files or self.disk.system.medium("none").files
        path = self.loader.slot_path
        return all(files[str(path(slot, name))].startswith(image) for name, image in what.images.items())

    # One boot

    def _one_boot(self, ended: Callable[[], bool]) -> bool:
        """Run until the end (True) or a reboot (False)."""
        boot, boot_id = self._power_on()
        if self.version_in(boot.slot) in self.hanging:
            self._reset()
            return False
        while True:
            self.runtime = self._agent()
            try:
                return self._one_process(boot, boot_id, ended)
            except UnavailableError:
                if not self.restarts_agent:
                    raise

    def _one_process(self, boot: Boot, boot_id: str, ended: Callable[[], bool]) -> bool:
        runtime = self.runtime
        assert runtime is not None
        runtime.start()
        waiting: list[Any] = self.arrivals() if self.online else []
        for _ in range(400):
            waiting += self._advance(waiting.pop(0) if waiting else None)
            if self._listen(boot, boot_id):
                self._restart()
                return False
            if not waiting and ended():
                return True
        raise BrokenRuleError("converges", f"stuck in {type(runtime.standing.state).__name__}")

    def arrivals(self) -> list[Any]:
        """What reaches the agent at the start of a boot."""
        return [Connected(online=True), *self.retained()]

    def powered_agent(self, link: Link) -> Runtime:
        """The agent of a fresh boot on another link, for a loop of its own."""
        self._power_on()
        return self._agent(link)

    def _power_on(self) -> tuple[Boot, str]:
        self.clock, boot_id = Clock(), self.chance.boot_id()
        if self.runtime is not None:  # else a machine that was just made
            self.disk.system.shut_down()
        self.in_loader = True
        boot = self.loader.power_on(self.disk, boot_id)
        self.in_loader = False
        self.boots.append(boot)
        return boot, boot_id

    def _listen(self, boot: Boot, boot_id: str) -> bool:
        self.in_loader = True
        is_over = self.loader.listen(self.disk, boot, boot_id, self.clock.now - BEGIN_S)
        self.in_loader = False
        return is_over

    def _restart(self) -> None:
        """The system shuts down as it should, and says so to the boot loader."""
        if not isinstance(self.loader, Simulated):
            with contextlib.suppress(OSError):
                self._control().shut_down()
        self.disk.system.shut_down()

    def _state(self) -> LoaderState:
        state = read_state(self.disk, BOARD)
        assert state is not None
        return state

    def _control(self) -> BootControl:
        boot = self.boots[-1]
        return self.loader.control(self.disk, self.clock.seconds, lambda: self._listen(boot, ""))

    def _agent(self, link: Link | None = None) -> Runtime:
        boot = self._control()
        slots = self.loader.slots(self.disk, boot)
        bundles, source = self.bundles()
        installer = StreamInstaller(effects=self.disk, slots=slots, source=source, directory=AGENT)
        catalogue = self.catalogue()
        ports = Ports(
            effects=self.disk,
            slots=slots,
            boot=boot,
            catalogue=catalogue,
            notary=KeyNotary(catalogue, self.report_signer),
            installer=installer,
            health=Checks(self),
            link=link or Wire(self),
            clock=self.clock,
            chance=self.chance,
            policy=self.policy,
            bundles=bundles,
        )
        tuning = Tuning(clear_first=self.policy.asks_before_activation, consent_required=self.consent)
        settings = Settings(build_time=NOW, tuning=tuning, min_uptime_s=self.min_uptime_s)
        return self.runtime_class(identity=IDENTITY, ports=ports, directory=AGENT, settings=settings)

    def catalogue(self) -> Catalogue:
        """The device's catalogue."""
        return DepotCatalogue(self.depot)

    def bundles(self) -> tuple[Bundles | None, Source]:
        """What it installs from beside the network, and the source of artifacts; see `tests.crash.stick`."""
        return None, self.depot

    def retained(self) -> list[Incoming]:
        return [Incoming(leaf="order", target="dev-1", payload=order) for order in self.server.orders[-1:]]

    def _advance(self, happened: Any) -> list[Any]:
        """Hand one thing to the runtime, or let time pass; what comes of it."""
        runtime = self.runtime
        assert runtime is not None
        if happened is not None:
            runtime.handle(happened)
        else:
            wake = runtime.next_wake()
            self.clock.now = max(self.clock.now, self.clock.now + 5 if wake is None else wake)
        runtime.due()
        out: list[Any] = [job.run() for job in runtime.take_jobs()]
        sent, self.published = self.published, []
        for topic, payload in sent:
            out += self.server.hear(topic, payload)
        return out
