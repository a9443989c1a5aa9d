"""A scenario's fleet: lots of devices that are alike, when they are there, and what befalls them."""

from collections.abc import Mapping
from typing import Any

from server.planner import plain
from server.planner.availability import HOURS
from server.planner.plain import bad
from simulator.virtual import world_values as values
from simulator.virtual.cuts_file import cuts_of
from simulator.virtual.device import Link
from simulator.virtual.hostility import hostile_of
from simulator.virtual.presence import Outages
from simulator.virtual.world import MAINS, RIGHT, UNBOUND, Clocks, Habit, Lot, Power

MOST_DEVICES = 2_000_000
MOST_DRIFT = 0.5
ROUNDING = 1e-9


def lot_of(value: object, where: str) -> Lot:
    """Devices that are alike. Raises `RefusedError` (`bad-strategy`, as all of `plain`)."""
    fields = plain.mapping(value, where)
    keys = (
        "name",
        "devices",
        "hardware",
        "sites",
        "labels",
        "timezone",
        "pairs",
        "gateway",
        "presence",
        "link",
        "faults",
        "flash",
        "battery",
        "clock",
        "hostile",
    )
    plain.known(fields, (*keys, "health"), where)
    values.needed(fields, ("name", "devices", "hardware"), where)
    faults = plain.mapping(fields.get("faults", {}), f"{where}.faults")
    plain.known(faults, ("flash", "power_cut", "power_cuts"), f"{where}.faults")
    flash = plain.mapping(fields.get("flash", {}), f"{where}.flash")
    plain.known(flash, ("bytes_per_s",), f"{where}.flash")
    net = plain.mapping(fields.get("link", {}), f"{where}.link")
    captive, mqtt_only = (values.share(net, key, f"{where}.link") for key in ("captive", "mqtt_only"))
    if captive + mqtt_only > 1 + ROUNDING:
        raise bad(f"{where}.link.mqtt_only", "leave `captive` its share of the sites: both are 100% at most")
    link, spread = _link(fields.get("link", {}), f"{where}.link")
    return Lot(
        name=plain.name(fields["name"], f"{where}.name"),
        devices=plain.integer(fields["devices"], f"{where}.devices", 1, MOST_DEVICES),
        hardware=plain.name(fields["hardware"], f"{where}.hardware"),
        sites=plain.integer(fields.get("sites", 1), f"{where}.sites", 1, MOST_DEVICES),
        labels=plain.labels(fields.get("labels", {}), f"{where}.labels"),
        zone=values.zone(fields.get("timezone", "UTC"), f"{where}.timezone"),
        pairs=plain.flag(fields.get("pairs", False), f"{where}.pairs"),
        gateway=plain.flag(fields.get("gateway", False), f"{where}.gateway"),
        habit=_habit(fields.get("presence", {}), f"{where}.presence"),
        link=link,
        link_spread=spread,
        captive=captive,
        mqtt_only=mqtt_only,
        flash_faults=values.share(faults, "flash", f"{where}.faults"),
        flash_rate=_flash_rate(flash, f"{where}.flash.bytes_per_s"),
        power_cuts=values.share(faults, "power_cut", f"{where}.faults"),
        cuts=cuts_of(faults.get("power_cuts", []), f"{where}.faults.power_cuts"),
        power=_power(fields.get("battery", {}), f"{where}.battery"),
        clocks=_clocks(fields.get("clock", {}), f"{where}.clock"),
        health_s=plain.positive_duration(fields.get("health", 60), f"{where}.health"),
        hostile=hostile_of(fields.get("hostile", {}), f"{where}.hostile"),
    )


def _flash_rate(fields: Mapping[str, Any], where: str) -> float:
    rate = values.size(fields["bytes_per_s"], where) if fields else UNBOUND
    if not rate:
        raise bad(where, "be more than nothing, or no image is ever written")
    return rate


def _power(value: object, where: str) -> Power:
    fields = plain.mapping(value, where)
    if not fields:
        return MAINS
    plain.known(fields, ("share", "low", "for"), where)
    values.needed(fields, ("share",), where)
    if ("low" in fields) == ("for" in fields):
        raise bad(where, "have either `low`, hours of the week, or `for`, how long it takes to charge")
    hours = values.hours_of(fields["low"], f"{where}.low") if "low" in fields else ()
    if len(hours) == HOURS:
        raise bad(f"{where}.low", "leave some hours in which there is enough")
    return Power(
        share=values.share(fields, "share", where),
        hours=hours,
        low_s=plain.positive_duration(fields["for"], f"{where}.for") if "for" in fields else 0.0,
    )


def _clocks(value: object, where: str) -> Clocks:
    fields = plain.mapping(value, where)
    if not fields:
        return RIGHT
    plain.known(fields, ("share", "drift"), where)
    values.needed(fields, ("drift",), where)
    return Clocks(
        share=values.share(fields, "share", where, 1.0), drift=values.share(fields, "drift", where, most=MOST_DRIFT)
    )


def _habit(value: object, where: str) -> Habit:
    fields = plain.mapping(value, where)
    plain.known(fields, ("share", "hours", "else", "spell", "outages", "asleep"), where)
    outages = plain.mapping(fields.get("outages", {}), f"{where}.outages")
    plain.known(outages, ("share", "spell"), f"{where}.outages")
    asleep = plain.mapping(fields.get("asleep", {}), f"{where}.asleep")
    plain.known(asleep, ("share", "until"), f"{where}.asleep")
    if asleep:
        values.needed(asleep, ("share", "until"), f"{where}.asleep")
    if "else" in fields and "hours" not in fields:
        raise bad(f"{where}.else", "be left out where there are no hours")
    return Habit(
        share=values.share(fields, "share", where, 1.0),
        hours=values.hours_of(fields["hours"], f"{where}.hours") if "hours" in fields else (),
        rest=values.share(fields, "else", where),
        spell_h=values.whole_hours(fields.get("spell", "6h"), f"{where}.spell"),
        outages=Outages(
            share=values.share(outages, "share", f"{where}.outages"),
            spell_h=values.whole_hours(outages.get("spell", "8h"), f"{where}.outages.spell"),
        ),
        asleep=values.share(asleep, "share", f"{where}.asleep"),
        asleep_s=plain.duration(asleep.get("until", 0), f"{where}.asleep.until"),
    )


def _link(value: object, where: str) -> tuple[Link, float]:
    fields = plain.mapping(value, where)
    keys = ("mbit", "spread", "latency", "loss", "duplication", "reordering", "captive", "mqtt_only")
    plain.known(fields, keys, where)
    link = Link(
        bytes_per_s=plain.number(fields.get("mbit", 20), f"{where}.mbit", 0.001, 100_000) * 1e6 / 8,
        latency_s=plain.duration(fields.get("latency", 0.2), f"{where}.latency"),
        loss=values.share(fields, "loss", where, most=0.9),
        duplication=values.share(fields, "duplication", where),
        reordering=values.share(fields, "reordering", where),
    )
    return link, plain.number(fields.get("spread", 1), f"{where}.spread", 1, 100)
