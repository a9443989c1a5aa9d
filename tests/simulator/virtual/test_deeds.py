"""What scenarios do to server, database, broker and network: how it is written, and what is refused at its line."""

import re

import pytest

from firmware.errors import RefusedError
from simulator.virtual.deeds import ABOUT, LASTING, POSTGRESQL, REFUSING, SQLITE, TURNS, Turns, database_for, parted
from simulator.virtual.world import DEEDS, Deed, World
from simulator.virtual.world_file import parse_world

WORLD = """\
name: storm
days: 1
fleet:
  - {{name: lamp, devices: 8, hardware: lamp-r1}}
releases:
  - {{version: "2.0.0"}}
campaigns:
  - file: |
      {{name: spring, product: lamp, version: "2.0.0", strategy: standard}}
wire:
{deeds}
"""


def world(*lines: str) -> World:
    return parse_world(WORLD.format(deeds="\n".join(f"  - {{{line}}}" for line in lines)), "storm.yaml")


def deeds(*lines: str) -> tuple[Deed, ...]:
    return world(*lines).deeds


def test_each_is_read_with_what_it_needs() -> None:
    found = deeds(
        "do: partition, after: 20s, for: 15m, share: 30%",
        "do: full-server, after: 1h, for: 10s",
        "do: slow-broker, after: 20s, for: 15s",
        "do: kill-database, after: 2h, for: 90s",
        "do: kill-server, after: 3h",
    )
    assert found == (
        Deed(kind="partition", after_s=20.0, for_s=900.0, share=0.3),
        Deed(kind="full-server", after_s=3600.0, for_s=10.0),
        Deed(kind="slow-broker", after_s=20.0, for_s=15.0),
        Deed(kind="kill-database", after_s=7200.0, for_s=90.0),
        Deed(kind="kill-server", after_s=10800.0),
    )
    assert {*REFUSING} < {*LASTING} < {*DEEDS}
    assert {*DEEDS} - {"hostile"} == {*ABOUT}


LASTS = (
    "say `for` for full-server, hostile, kill-database, partition, slow-broker, slow-database and slow-server, and for "
    "nothing else"
)
SERVER, BROKER = "to the server one thing is done at a time", "to the broker one thing is done at a time"
REFUSED = [
    (["do: full-broker, after: 1s, for: 1s"], 11, "wire[0].do must be one of full-server, hostile, "),
    *[([f"do: {kind}, after: 1s"], 11, LASTS) for kind in LASTING if kind != "partition"],
    (["do: partition, after: 1s, share: 10%"], 11, LASTS),
    (["do: kill-server, after: 1s, for: 2s"], 11, LASTS),
    (["do: rotate-director, after: 1s, for: 2s"], 11, LASTS),
    (["do: partition, after: 1s, for: 2s"], 11, "wire[0] must say `share` for partition, and for nothing else"),
    (["do: slow-server, after: 1s, for: 2s, share: 10%"], 11, "wire[0].share must say `share` for partition"),
    (["do: partition, after: 1s, for: 2s, share: 0%"], 11, "wire[0].share must be more than 0%"),
    (["do: partition, after: 1s, for: 2s, share: 101%"], 11, "wire[0].share"),
    (["do: slow-server, after: 1s, for: 0s"], 11, "wire[0].for"),
    (["do: slow-server, after: 23h, for: 1h"], 11, "wire[0].after must be so early that it is over before"),
    (
        ["do: full-server, after: 0s, for: 9s", "do: slow-broker, after: 2s, for: 1d"],
        12,
        "wire[1].after must be so early",
    ),
    (
        ["do: full-server, after: 5s, for: 9s", "do: kill-server, after: 13s"],
        12,
        f"be 14 s or later, when full-server is over: {SERVER}",
    ),
    (
        ["do: kill-server, after: 6s", "do: slow-server, after: 5s, for: 9s"],
        11,
        f"wire[0].after must be 14 s or later, when slow-server is over: {SERVER}",
    ),
    (["do: slow-database, after: 5s, for: 9s", "do: rotate-director, after: 5s"], 12, SERVER),
    (
        ["do: kill-database, after: 5s, for: 9s", "do: kill-server, after: 13s"],
        12,
        f"when kill-database is over: {SERVER}",
    ),
    (
        ["do: kill-server, after: 5s", "do: slow-server, after: 5s, for: 9s"],
        12,
        f"wire[1].after must be later than kill-server: {SERVER}",
    ),
    (["do: slow-broker, after: 5s, for: 9s", "do: kill-broker, after: 6s"], 12, BROKER),
    (
        ["do: partition, after: 5s, for: 9s, share: 9%", "do: partition, after: 6s, for: 9s, share: 9%"],
        12,
        "to the network one thing",
    ),
]


@pytest.mark.parametrize(("lines", "line", "what"), REFUSED, ids=lambda one: str(one)[:70])
def test_what_says_too_much_or_too_little_or_meets_another_is_refused(lines: list[str], line: int, what: str) -> None:
    with pytest.raises(RefusedError, match=rf"^storm.yaml, line {line}: .*{re.escape(what)}") as refused:
        deeds(*lines)
    assert refused.value.kind == "bad-scenario"


def test_what_meets_nothing_else_or_comes_after_it_can_be() -> None:
    every = (
        "do: full-server, after: 5s, for: 9s",
        "do: kill-server, after: 14s",
        "do: kill-server, after: 14s",
        "do: slow-database, after: 15s, for: 9s",
        "do: kill-database, after: 24s, for: 9s",
        "do: slow-broker, after: 5s, for: 9s",
        "do: partition, after: 5s, for: 9s, share: 100%",
        "do: hostile, after: 5s, for: 9s",
        "do: hostile, after: 6s, for: 9s",
    )
    assert len(deeds(*every)) == len(every)


KILL, FULL, CALM = (
    "do: kill-database, after: 20s, for: 9s",
    "do: full-server, after: 5s, for: 9s",
    "do: slow-database, after: 40s, for: 9s",
)


@pytest.mark.parametrize(
    ("lines", "wanted", "found"),
    [
        ([CALM], None, SQLITE),
        ([CALM], POSTGRESQL, POSTGRESQL),
        ([CALM, FULL], SQLITE, SQLITE),
        ([CALM, FULL], None, SQLITE),
        ([CALM, KILL], None, POSTGRESQL),
        ([KILL], POSTGRESQL, POSTGRESQL),
    ],
)
def test_a_world_has_the_database_that_is_wanted_or_that_its_deeds_need(
    lines: list[str], wanted: str | None, found: str
) -> None:
    assert database_for(world(*lines), wanted) == found


@pytest.mark.parametrize(
    ("lines", "wanted", "what"),
    [
        (
            [CALM, KILL],
            SQLITE,
            "storm: wire[1].do: kill-database kills processes, and SQLite has none: leave --database",
        ),
        ([FULL], POSTGRESQL, "storm: wire[0].do: full-server fills the disk of the server"),
        ([FULL, KILL], None, "storm: wire[1].do: kill-database needs PostgreSQL, and full-server SQLite: make two"),
        ([FULL, KILL], SQLITE, "storm: wire[1].do: kill-database"),
        ([FULL, KILL], POSTGRESQL, "storm: wire[0].do: full-server"),
    ],
)
def test_what_a_database_has_not_is_refused_at_its_key_with_what_to_do(
    lines: list[str], wanted: str | None, what: str
) -> None:
    with pytest.raises(RefusedError, match=re.escape(what)) as refused:
        database_for(world(*lines), wanted)
    assert refused.value.kind == "other-database"


def test_who_goes_in_turns_stands_still_first() -> None:
    turns = Turns(stands_s=3.0, goes_s=1.0)
    assert [turns.waits_s(at) for at in (0.0, 2.0, 3.0, 3.9, 4.0, 6.5, 7.0)] == [3.0, 1.0, 0.0, 0.0, 3.0, 0.5, 0.0]
    assert turns.waits_s(2.9999999) == 0.0
    assert all(0 < one.goes_s < one.stands_s < 5 for one in TURNS.values())


def test_whom_a_partition_parts_is_of_its_seed_and_its_time_and_one_at_least() -> None:
    names = [f"lamp-{n:06}" for n in range(40)]
    one = Deed(kind="partition", after_s=20.0, for_s=5.0, share=0.25)
    found = parted(one, names, 1)
    assert len(found) == 10
    assert found == parted(one, reversed(names), 1)
    assert found != parted(one, names, 2)
    assert found != parted(Deed(kind="partition", after_s=40.0, for_s=5.0, share=0.25), names, 1)
    assert len(parted(Deed(kind="partition", after_s=20.0, for_s=5.0, share=0.001), names, 1)) == 1
    assert parted(Deed(kind="partition", after_s=20.0, for_s=5.0, share=1.0), names, 1) == names
