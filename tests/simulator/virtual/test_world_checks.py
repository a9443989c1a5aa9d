"""Worlds that can't be are refused with file, line and key; those beside them that can are not."""

import re

import pytest

from firmware.errors import RefusedError
from server.planner import plain
from simulator.virtual.library import load, names
from simulator.virtual.world_file import parse_world

WORLD = """\
name: place
days: 10
begins: 2026-03-02T00:00+00:00
fleet:
  - name: lamp
    devices: 8
    hardware: lamp-r1
    sites: 4
    labels: {line: a}
    link: {mbit: 8, spread: 2}
    presence: {share: 90%}
releases:
  - {version: "2.0.0", image: 40 MB}
campaigns:
  - after: 1d
    file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy: {name: s, cohorts: [{name: all}], budgets: [{by: site, limit: 1}]}
acts:
  - {campaign: spring, verb: pause, after: 2d}
"""


def with_(*changes: str) -> str:
    """The world with some of its text replaced: each change is `OLD -> NEW`."""
    text = WORLD
    for change in changes:
        old, new = change.split(" -> ")
        assert old in text
        text = text.replace(old, new)
    return text


def selecting(what: str) -> str:
    return f"      strategy: -> \x20     selection: {what}\n      strategy:"


CASES = [
    # what is written, its place, and the same so that it can be
    (["after: 2d} -> after: 23h}"], 22, "acts[0].after must be later than spring begins", ["after: 2d} -> after: 1d}"]),
    (["after: 2d} -> after: 10d}"], 22, "acts[0].after must be before", ["after: 2d} -> after: 239h}"]),
    (
        ["acts: -> wire: [{do: kill-broker, after: 10d}]\nacts:"],
        21,
        "wire[0].after must be",
        ["acts: -> wire: [{do: kill-broker, after: 9d}]\nacts:"],
    ),
    (
        ["acts: -> wire: [{do: hostile, after: 9d, for: 25h}]\nacts:"],
        21,
        "wire[0].after must be",
        ["acts: -> wire: [{do: hostile, after: 9d, for: 23h}]\nacts:"],
    ),
    (
        ["image: 40 MB -> image: 40 MB, hardware: [lamp-r9]"],
        13,
        "releases[0].hardware must name hardware of the fleet: nobody has lamp-r9",
        ["image: 40 MB -> image: 40 MB, hardware: [lamp-r9, lamp-r1]"],
    ),
    ([selecting("{labels: {line: b}}")], 16, "select somebody", [selecting("{labels: {line: [a, b]}}")]),
    ([selecting("{versions: ['2.0.0']}")], 16, "select somebody", [selecting("{versions: [0.9.0]}")]),
    (
        [selecting("{exclude: [{hardware: [lamp-r1]}]}")],
        16,
        "select somebody",
        [selecting("{exclude: [{targets: [lamp-000001]}]}")],
    ),
    (
        [selecting("{targets: [lamp-000001-new]}")],
        16,
        "select somebody",
        [selecting("{targets: [lamp-000001-new]}"), "acts: -> churn: [{do: replace, fleet: lamp, share: 50%}]\nacts:"],
    ),
    (
        ["acts: -> churn: [{do: join, fleet: lamp, share: 100%, after: 1d, within: 1d}]\nacts:"],
        16,
        "select somebody",
        ["acts: -> churn: [{do: join, fleet: lamp, share: 100%, within: 2d}]\nacts:"],
    ),
    (
        ["acts: -> churn: [{do: clone, fleet: lamp, share: 100%, within: 1d}]\nacts:"],
        16,
        "select somebody",
        ["acts: -> churn: [{do: reflash, fleet: lamp, share: 50%}, {do: clone, fleet: lamp, share: 100%}]\nacts:"],
    ),
    (
        ["      strategy: -> \x20     start_at: 2026-03-12T00:00+00:00\n      strategy:"],
        16,
        "`start_at` before the world's days are over",
        ["      strategy: -> \x20     start_at: 2026-03-11T00:00+00:00\n      strategy:"],
    ),
    (["40 MB -> 1600 GB"], 13, "releases[0].image must be smaller: the quickest link", ["40 MB -> 1500 GB"]),
    (
        ["image: 40 MB -> image: 40 MB, defects: [{kind: crashes, after: 9d}]"],
        13,
        "releases[0].defects[0].after must be shorter than the 9 days",
        ["image: 40 MB -> image: 40 MB, defects: [{kind: crashes, after: 8d}]"],
    ),
    (["limit: 1}] -> keep: 2}]"], 16, "no site has more than 2, so with keep 2", ["limit: 1}] -> keep: 1}]"]),
    (
        ["by: site, limit: 1 -> by: pair, keep: 2", "    sites: 4 -> \x20   sites: 2\n    pairs: true"],
        17,
        "no pair has more than 2",
        ["by: site, limit: 1 -> by: pair, keep: 1", "    sites: 4 -> \x20   sites: 2\n    pairs: true"],
    ),
    (
        ["by: site, limit: 1 -> by: gateway, keep: 1", "    sites: 4 -> \x20   sites: 4\n    gateway: true"],
        17,
        "no gateway has more than 1",
        ["by: site, limit: 1 -> by: gateway, keep: 1", "    sites: 4 -> \x20   sites: 2\n    gateway: true"],
    ),
    (
        ["by: site, limit: 1 -> by: line, keep: 8"],
        16,
        "no line has more than 8",
        ["by: site, limit: 1 -> by: line, keep: 7"],
    ),
    (
        ["limit: 1}] -> limit: 1}], freezes: [{from: 2026-03-01, to: 2026-03-13}]"],
        16,
        "have a window in the world's days",
        ["limit: 1}] -> limit: 1}], freezes: [{from: 2026-03-01, to: 2026-03-11}]"],
    ),
    (
        ["limit: 1}] -> limit: 1}], windows: [{from: 2026-03-12, to: 2026-03-13}]"],
        16,
        "have a window in the world's days",
        [
            "limit: 1}] -> limit: 1}], windows: [{from: 2026-03-12, to: 2026-03-13}]",
            "    sites: 4 -> \x20   sites: 4\n    timezone: Asia/Tokyo",
        ],
    ),
    (
        ["spread: 2} -> spread: 2, latency: 25h}"],
        10,
        "fleet[0].link.latency must be a day",
        ["spread: 2} -> latency: 24h}"],
    ),
    (
        ["{share: 90%} -> {asleep: {share: 100%, until: 10d}}"],
        11,
        "fleet[0].presence.asleep must let some wake up",
        ["{share: 90%} -> {asleep: {share: 100%, until: 9d}}"],
    ),
    (
        ["{share: 90%} -> {outages: {share: 100%}}"],
        11,
        "fleet[0].presence.outages.share must be less",
        ["{share: 90%} -> {outages: {share: 99%}}"],
    ),
    (
        ["begins: 2026-03-02 -> begins: 1969-12-31"],
        3,
        "begins must be from 1970",
        ["begins: 2026-03-02 -> begins: 1970-01-01"],
    ),
    (
        ["begins: 2026-03-02 -> begins: 9026-03-02"],
        3,
        "begins must be from 1970",
        ["begins: 2026-03-02 -> begins: 2099-01-01"],
    ),
    (
        ["by: site -> by: rack"],
        16,
        "budgets by a label that somebody has (line, site), not by rack",
        ["by: site -> by: line"],
    ),
    (["limit: 1}] -> limit: 1}], rates: [{by: pair, count: 1, every: 1h}]"], 16, "rates by a label", []),
    (["{line: a} -> {site: a}"], 9, "fleet[0].labels.site must be left out: `sites` says", ["{line: a} -> {pair: a}"]),
    (
        ["{line: a} -> {timezone: Europe/Berlin}\n    timezone: Europe/Ulm", "Europe/Ulm -> Europe/Berlin"],
        9,
        "fleet[0].labels.timezone must be left out",
        ["{line: a} -> {timezone: Europe/Berlin}"],
    ),
    (["{line: a} -> {timezone: Europe/Ulm}"], 9, "fleet[0].labels.timezone must be the name of a time zone", []),
    (
        ["    sites: 4 -> \x20   sites: 4\n    timezone: Europe"],
        9,
        "fleet[0].timezone must be the name of a time zone",
        [],
    ),
    (
        ["{share: 90%} -> {hours: 10-10}"],
        11,
        "fleet[0].presence.hours must say '00-24' for all day",
        ["{share: 90%} -> {hours: 00-24}"],
    ),
    (["days: 10 -> days: 10\n5: 3"], 3, "a key must be plain text", []),
    (["days: 10 -> days: 10\n? [a]\n: 3"], 3, "a key must be plain text", []),
    (["{line: a} -> {{a: b}: a}"], 9, "a key must be plain text", []),
]


@pytest.mark.parametrize(("changes", "line", "what", "else_"), CASES, ids=lambda one: str(one)[:60])
def test_what_can_never_be_is_refused_where_it_stands(
    changes: list[str], line: int, what: str, else_: list[str]
) -> None:
    with pytest.raises(RefusedError, match=rf"^mine.yaml, line {line}: .*{re.escape(what)}") as refused:
        parse_world(with_(*changes), "mine.yaml")
    assert refused.value.kind == "bad-scenario"
    assert parse_world(with_(*else_), "mine.yaml").name == "place"


def test_all_of_the_library_can_be() -> None:
    for name in (*names(), *names(wire=True)):
        assert load(name, deeds=True).name == name


def test_a_number_as_a_key_is_named_like_any_other() -> None:
    with pytest.raises(RefusedError, match=r"s\.5 is no key of a strategy; known are name"):
        plain.known({5: 3}, ["name"], "s")  # type: ignore[dict-item]
