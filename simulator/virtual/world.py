"""What a run is about: a fleet, its releases and their defects, campaigns, and what people do meanwhile. Values only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import cycle
from zoneinfo import ZoneInfo

from server.planner.availability import HOURS
from server.planner.words import Verb
from server.ports import CampaignSpec
from simulator.virtual.battery import Battery, battery
from simulator.virtual.chances import chance, seeded
from simulator.virtual.cuts import Cut, met
from simulator.virtual.device import Link
from simulator.virtual.hostility import HARMLESS, Hostile
from simulator.virtual.presence import Outages

DEFECTS = ("fails-boot", "fails-health", "crashes", "fails-second-boot", "bricks")
CHURN = ("clone", "join", "reflash", "replace")
DEEDS = (
    "full-server",
    "hostile",
    "kill-broker",
    "kill-database",
    "kill-server",
    "partition",
    "rotate-director",
    "slow-broker",
    "slow-database",
    "slow-server",
)
FACTORY = "0.9.0"
"""What devices run before, unless a world says."""
NO_OUTAGES = Outages()
USUAL_LINK = Link()
UNBOUND = float("inf")


@dataclass(frozen=True, kw_only=True)
class Habit:
    """When the devices of a lot are there: `share` of the time, or of the local `hours` of the week (0: Monday 00) and
    `rest` of the others. `asleep`: so many of them are away until `asleep_s` after the beginning."""

    share: float = 1.0
    hours: tuple[int, ...] = ()
    rest: float = 0.0
    spell_h: int = 6
    outages: Outages = NO_OUTAGES
    asleep: float = 0.0
    asleep_s: float = 0.0


ALWAYS = Habit()


@dataclass(frozen=True, kw_only=True)
class Power:
    """A `share` of the devices has a battery that is too low for a restart in these `hours` of the local week (0: Monday 00), or
    for `low_s` from when an update is staged."""

    share: float = 0.0
    hours: tuple[int, ...] = ()
    low_s: float = 0.0


MAINS = Power()


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """A `share` of the devices has a clock that counts too fast or too slowly, by up to `drift` of what is right."""

    share: float = 0.0
    drift: float = 0.0


RIGHT = Clocks()


@dataclass(frozen=True, kw_only=True)
class Lot:
    """Devices that are alike, over `sites` sites. `pairs`: two and two have a label `pair`. `gateway`: the first of each site is
    the others' gateway. `link_spread`: links are faster or slower by up to this factor. `flash_rate`: bytes per
    second that are written, or read back. `captive`: at this share of the sites the broker is reached and HTTP isn't; at another,
    `mqtt_only`, that is known, and all comes in blocks over the broker."""

    name: str
    devices: int
    hardware: str
    sites: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    zone: str = "UTC"
    pairs: bool = False
    gateway: bool = False
    habit: Habit = ALWAYS
    link: Link = USUAL_LINK
    link_spread: float = 1.0
    captive: float = 0.0
    mqtt_only: float = 0.0
    flash_faults: float = 0.0
    flash_rate: float = UNBOUND
    power_cuts: float = 0.0
    cuts: tuple[Cut, ...] = ()
    power: Power = MAINS
    clocks: Clocks = RIGHT
    health_s: float = 60.0
    hostile: Hostile = HARMLESS


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a release does to a `share` of the devices with this `hardware` (empty: any), `after_s` after the commit."""

    kind: str
    share: float = 1.0
    hardware: str = ""
    after_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Release:
    version: str
    size_bytes: int = 32_000_000
    faults: tuple[Fault, ...] = ()
    hardware: tuple[str, ...] = ()
    """What it is for; empty: all."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A campaign that is made and started `after_s` after the beginning."""

    spec: CampaignSpec
    after_s: float = 0.0
    text: str = ""
    """The campaign file, word for word."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """What a person tells a campaign."""

    campaign: str
    verb: Verb
    after_s: float


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What is done to a server and broker on the wire, `for_s` where it lasts: one of `DEEDS`. Runs from chances have neither.
    `share`: of the devices that it meets."""

    kind: str
    after_s: float
    for_s: float = 0.0
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Churn:
    """What becomes of a `share` of a lot's devices (one of `CHURN`), of each at a time of its own, from `after_s` on and within
    `within_s` (`simulator.virtual.churn`)."""

    kind: str
    lot: str
    share: float
    after_s: float = 0.0
    within_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """How a campaign should end: in one of `states`, with so many verified at least (a share) and harmed at most (a number)."""

    campaign: str
    states: tuple[str, ...] = ()
    verified_at_least: float = 0.0
    harmed_at_most: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One device of the fleet, as it is at the beginning. `week`: by hour of the week in UTC, the share that it is there.
    It sleeps for `asleep_s`, and then stays for `there_s` at least."""

    id: str
    hardware: str
    labels: Mapping[str, str]
    week: tuple[float, ...]
    version: str = FACTORY
    spell_h: int = 6
    outages: Outages = NO_OUTAGES
    asleep_s: float = 0.0
    there_s: float = 0.0
    link: Link = USUAL_LINK
    flash_faults: float = 0.0
    flash_rate: float = UNBOUND
    power_cuts: float = 0.0
    cuts: tuple[Cut, ...] = ()
    silences: float = 0.0
    battery: Battery | None = None
    is_captive: bool = False
    is_mqtt_only: bool = False
    pace: float = 1.0
    """How fast its clock counts, of what is right."""
    health_s: float = 60.0
    does: str = ""
    """How whoever holds its keys misuses them (`simulator.virtual.hostility.MISDEEDS`); empty: it is honest."""

    @property
    def site(self) -> str:
        return self.labels.get("site", self.id)


@dataclass(frozen=True, kw_only=True)
class World:
    """All of it. `begins`: POSIX seconds; `days`: for how long it is watched at most."""

    name: str
    about: str
    seed: int
    begins: float
    days: float
    lots: tuple[Lot, ...]
    releases: tuple[Release, ...]
    campaigns: tuple[Start, ...]
    acts: tuple[Act, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    deeds: tuple[Deed, ...] = ()
    churn: tuple[Churn, ...] = ()

    def members(self, seed: int) -> Iterator[Member]:
        """The fleet; who sleeps and how quick a link is come by chance."""
        for lot in self.lots:
            yield from _members(lot, seed, self.begins)

    def hardware_of(self, version: str) -> tuple[str, ...]:
        """What a release is for; empty: all."""
        return next((one.hardware for one in self.releases if one.version == version), ())


def _members(lot: Lot, seed: int, begins: float) -> Iterator[Member]:
    week = week_of(lot.habit, lot.zone, begins)
    low = battery(lot.power.hours, lot.power.low_s, _ahead_h(lot.zone, begins))
    same: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    does = cycle(lot.hostile.does)
    for number in range(lot.devices):
        name = f"{lot.name}-{number:06}"
        own = seeded(seed, name)
        labels = labels_of(lot, number)
        labels = same.setdefault(tuple(labels.items()), labels)  # or they would fill the memory of a large fleet
        habit, link = lot.habit, lot.link
        factor = lot.link_spread ** (2 * chance(own, 101) - 1)
        yield Member(
            id=name,
            hardware=lot.hardware,
            labels=labels,
            week=week,
            spell_h=habit.spell_h,
            outages=habit.outages,
            asleep_s=habit.asleep_s if chance(own, 102) < habit.asleep else 0.0,
            link=link if factor == 1.0 else replace(link, bytes_per_s=link.bytes_per_s * factor),
            flash_faults=lot.flash_faults,
            flash_rate=lot.flash_rate,
            power_cuts=lot.power_cuts,
            cuts=met(lot.cuts, own) if lot.cuts else (),
            battery=low if chance(own, 103) < lot.power.share else None,
            pace=1 + lot.clocks.drift * (2 * chance(own, 105) - 1) if chance(own, 104) < lot.clocks.share else 1.0,
            is_captive=lot.captive > 0 and _egress(seed, labels) < lot.captive,
            is_mqtt_only=lot.mqtt_only > 0 and 0 <= _egress(seed, labels) - lot.captive < lot.mqtt_only,
            health_s=lot.health_s,
            does=next(does) if lot.hostile.share and chance(own, 120) < lot.hostile.share else "",
        )


def _egress(seed: int, labels: Mapping[str, str]) -> float:
    """By which it is drawn whether a site reaches HTTP, or is one of those that don't."""
    return chance(seeded(seed, labels["site"]), 106)


def labels_of(lot: Lot, number: int) -> dict[str, str]:
    """Those of the lot's device of this number."""
    place = number % lot.sites
    labels = {**lot.labels, "site": f"{lot.name}-s{place:05}"}
    if lot.zone != "UTC":
        labels["timezone"] = lot.zone
    if lot.pairs:
        labels["pair"] = f"{lot.name}-p{number // (2 * lot.sites)}-{place:05}"
    if lot.gateway and number >= lot.sites:
        labels["gateway"] = f"{lot.name}-{place:06}"
    return labels


def week_of(habit: Habit, zone: str, begins: float) -> tuple[float, ...]:
    """The shares by hour of the week in UTC; the zone's offset is that of the beginning, as devices don't keep summer time."""
    if not habit.hours:
        return (habit.share,) * HOURS
    hours = _ahead_h(zone, begins)
    there = set(habit.hours)
    return tuple(habit.share if (hour + hours) % HOURS in there else habit.rest for hour in range(HOURS))


def _ahead_h(zone: str, begins: float) -> int:
    offset = datetime.fromtimestamp(begins, ZoneInfo(zone)).utcoffset() or timedelta()
    return round(offset.total_seconds() / 3600)
