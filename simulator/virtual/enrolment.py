"""A world's members made into devices that answer from chances, and into what the server knows of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from server.planner.events import Event
from server.planner.gateways import Path, named
from server.planner.grouping import paths_of
from server.planner.rows import TargetRow
from simulator.virtual.blocks import BlockPace
from simulator.virtual.chances import seeded
from simulator.virtual.cut_device import CutDevice
from simulator.virtual.device import Device, Image, Later, Timing
from simulator.virtual.hostility import LIES
from simulator.virtual.liar import Liar
from simulator.virtual.presence import Presence
from simulator.virtual.world import Member


class Enrolment:
    """`members`: all that ever come, since labels name the gateways among them. `names`: by member, by which name the world knows
    it, whose luck it has. `later` and `say` are the devices'."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        seed: int,
        begins: float,
        names: Mapping[str, str],
        timing: Timing,
        later: Later,
        say: Callable[[Device, Event], None],
    ) -> None:
        self._seed, self._begins, self._names = seed, begins, names
        self._timing, self._later, self._say = timing, later, say
        labels = {one.id: one.labels for one in members}
        paths = paths_of(list(labels), labels)
        self._paths = {name: path for name, path in paths.items() if path.gateways or path.fault}
        self._above = {gateway for one in members for gateway in named(one.labels)}
        self._sites: dict[str, int] = {}
        self._blocks = BlockPace()
        self._groups: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Each once, however many devices are in them."""

    def device(self, one: Member, image: Image) -> Device:
        """As it is at the beginning, running this."""
        own = seeded(self._seed, self._names.get(one.id, one.id))
        if one.site not in self._sites:
            self._sites[one.site] = seeded(self._seed, one.site)
        make: Callable[..., Device] = Liar if one.does == LIES else Device
        if one.cuts and make is Device:
            make = partial(CutDevice, cuts=one.cuts)
        return make(
            id=one.id,
            seed=own,
            hardware=one.hardware,
            site=one.site,
            image=image,
            presence=Presence(
                seed=own,
                week=one.week,
                spell_h=one.spell_h,
                site_seed=self._sites[one.site],
                outages=one.outages,
                wakes_at=self._begins + one.asleep_s if one.asleep_s else 0.0,
                stays_until=self._begins + one.asleep_s + one.there_s if one.there_s else 0.0,
            ),
            link=one.link,
            later=self._later,
            say=self._say,
            health_s=one.health_s,
            flash_faults=one.flash_faults,
            flash_rate=one.flash_rate,
            power_cuts=one.power_cuts,
            battery=one.battery,
            pace=one.pace,
            is_captive=one.is_captive,
            blocks=self._blocks if one.is_mqtt_only else None,
            silences=one.silences,
            timing=self._timing,
        )

    def target(self, one: Member, image: Image) -> TargetRow:
        """Its row, once its inventory is known."""
        path = self._paths.get(one.id, Path())
        groups = tuple(sorted(f"{name}={value}" for name, value in one.labels.items()))
        return TargetRow(
            id=one.id,
            agent=one.id,
            hardware=one.hardware,
            running_version=image.version,
            running_sha256=image.sha256,
            rollback_available=True,
            product=image.product,
            groups=self._groups.setdefault(groups, groups),
            gateways=path.gateways,
            path_fault=path.fault,
            is_gateway=one.id in self._above,
            zone=one.labels.get("timezone"),
        )
