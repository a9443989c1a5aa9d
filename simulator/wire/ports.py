"""What a device of a fleet stands on: its cable, the hub that drives it, and what all devices of a process share.

Rules
- Whose clock it is and what a cable is made of, hub and cable say: the wall's and a socket on the wire, a simulated one and
  memory in exact runs. A device can't tell.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from device_agent.core.values import OwnWatch, Tuning
from device_agent.notary import CatalogueKeys
from device_agent.post import Pace
from device_agent.runtime import Settings
from device_agent.work import Job
from simulator.virtual.blocks import BlockPace
from simulator.virtual.defects import Defects
from simulator.wire.grapevine import Grapevine
from simulator.wire.parts import Blob
from simulator.wire.plan import Moment, Tempo
from simulator.wire.site import Site
from simulator.wire.waiting import Waiting

if TYPE_CHECKING:
    from simulator.wire.device import Device


class Cable(Protocol):
    """A device's connection to the broker. `needs_pings`: whether it dies when nothing is said for a while."""

    will: tuple[str, bytes] | None
    needs_pings: bool

    @property
    def is_up(self) -> bool: ...
    @property
    def is_idle(self) -> bool: ...
    def connect(self) -> None:
        """Begin a connection, unless there is one."""
        ...

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool: ...
    def ping(self) -> None: ...
    def cut(self) -> None:
        """End it without a word; nobody is told."""
        ...


class Cables(Protocol):
    """Makes a device's cable; see `Line` for what is called when."""

    def __call__(
        self,
        *,
        address: tuple[str, int],
        name: str,
        pem: Path,
        topics: tuple[str, ...],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_message: Callable[[str, bytes], None],
    ) -> Cable: ...


class Hub(Protocol):
    """Who drives devices. Times are its own clock's, which counts seconds and is never set."""

    def now(self) -> float: ...
    def world_now(self) -> float:
        """POSIX seconds of the world's own clock."""
        ...

    def wall_s(self, world_s: float) -> float:
        """How long so much of the world's time takes here."""
        ...

    def later(self, at: float, what: Callable[[], None]) -> None: ...
    def run(self, device: "Device", number: int, job: Job) -> None:
        """Run a job, and hand its answer to `finished` with this number."""
        ...

    def waiting(self) -> Waiting:
        """What the jobs of a boot wait by."""
        ...

    def call(self, what: Callable[[], None]) -> None:
        """Call this on the hub's own thread, soon or at once. May be asked for on any."""
        ...

    def connect(self, device: "Device") -> None:
        """Call `dial` soon: not all at once."""
        ...

    def tell(self, moment: Moment) -> None: ...


class Common:
    """What devices of a process share."""

    def __init__(
        self,
        *,
        hub: Hub,
        cable: Cables,
        site: Site,
        keys: CatalogueKeys,
        tempo: Tempo,
        factory: Blob,
        product: str,
        defects: dict[str, Defects],
        sizes: dict[str, int],
    ) -> None:
        self.grapevine = Grapevine()
        self.hub, self.cable, self.site, self.keys, self.tempo = hub, cable, site, keys, tempo
        self.factory, self.product, self.defects, self.sizes = factory, product, defects, sizes
        self.blocks = BlockPace()
        self._settings: dict[tuple[float, bool], Settings] = {}

    def settings(self, health_s: float, *, clear_first: bool) -> Settings:
        """Of devices whose trials are watched so long, and which ask themselves first whether they may restart."""
        key = (health_s, clear_first)
        if key not in self._settings:
            self._settings[key] = _settings(self.tempo, health_s, clear_first)
        return self._settings[key]


def _settings(tempo: Tempo, health_s: float, clear_first: bool) -> Settings:
    return Settings(
        tuning=Tuning(
            retry_min_s=tempo.retry_min_s,
            retry_max_s=tempo.retry_max_s,
            ask_min_s=tempo.ask_min_s,
            ask_max_s=tempo.ask_max_s,
            ask_spread_s=1.0,
            soak_s=60.0,
            clear_first=clear_first,
            own_watch=OwnWatch(min_uptime_s=health_s),
        ),
        agent_version="simulator",
        pace=Pace(resend_min_s=tempo.resend_min_s, resend_max_s=tempo.resend_max_s),
        doorbell_spread_s=1.0,
        refresh_min_s=tempo.refresh_min_s,
        min_uptime_s=10.0,
    )
