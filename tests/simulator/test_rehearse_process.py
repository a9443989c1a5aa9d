"""The process that the server rehearses in: the real one, over its pipes."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from firmware.errors import OtariaError, RefusedError
from server.campaigns.rehearsal import Basis, Rehearsal, Task, Understudy, packed
from server.campaigns.rehearsal_process import RehearsalProcess
from server.campaigns.strategy_file import parse_campaign
from server.planner.availability import HOURS
from server.planner.lessons import Line, Tally, frailties
from simulator.replicas import FEW, usual_processes

COMMAND = ("-m", "simulator.rehearse_process")
CAMPAIGN = """
name: spring
product: lamp
version: "2.0.0"
selection: {labels: {ring: early}}
strategy:
  name: s
  cohorts: [{name: canary, count: 2, gate: {kind: all}}, {name: rest, gate: {kind: all}}]
  budgets: [{by: campaign, limit: 2}]
  patience: 1d
  healthy: 1m
"""


def understudy(number: int, *, ring: str = "early", share: float = 1.0) -> Understudy:
    labels = {"site": f"s{number % 2}", "ring": ring}
    return Understudy(id=f"d{number}", hardware="r1", labels=labels, week=packed((share,) * HOURS), version=None)


def task(*fleet: Understudy) -> Task:
    spec = parse_campaign(CAMPAIGN)
    return Task(spec=spec, fleet=fleet, begins=1_772_409_600.0, days=3.0, replicas=2, most=2, image_bytes=1000)


async def nobody(done: int, so_far: Rehearsal | None) -> None:
    """Listens to nothing."""


async def test_a_campaign_is_rehearsed_in_a_process_of_its_own() -> None:
    told: list[tuple[int, bool]] = []

    async def tell(done: int, so_far: Rehearsal | None) -> None:
        told.append((done, so_far is not None))

    fleet = [understudy(n) for n in range(6)] + [understudy(6, ring="late")]
    found = await RehearsalProcess(COMMAND).rehearse(task(*fleet), tell)
    assert told == [(1, False), (2, False), (2, True)]
    assert (found.targets, found.verified.p50) == (6, 1.0)
    assert found.site_bytes == {"s0": 3000, "s1": 3000}
    assert found.missed == ()
    assert [one.name for one in found.cohorts] == ["canary", "rest", "late"]


async def test_what_was_learned_is_drawn_anew_for_each_run() -> None:
    slow = Line(bytes_per_s=1000.0, spread=0.3)
    known = [msgspec.structs.replace(understudy(n), line=slow) for n in range(6)]
    gone = msgspec.structs.replace(understudy(7), returns_s=(1e9,) * 8)
    frail = frailties([Tally(hardware="r1", site="s0", attempts=10, failed=0, fell_back=0, silent=0)])
    basis = Basis(presences=6, downloads=4, attempts=10)
    asked = msgspec.structs.replace(task(*known, gone), image_bytes=3_600_000, frailties=frail, basis=basis, days=5.0)
    found = await RehearsalProcess(COMMAND).rehearse(asked, nobody)
    quick = await RehearsalProcess(COMMAND).rehearse(task(*map(understudy, range(6))), nobody)
    assert (found.basis, quick.basis) == (basis, None)
    assert [(one.target, one.share) for one in found.missed] == [("d7", 1.0)]
    assert (
        found.done_s.p10 - quick.done_s.p90 > 1800
    )  # an hour of downloading, as likely as not, where others take a second


async def test_a_target_that_never_comes_is_named() -> None:
    found = await RehearsalProcess(COMMAND).rehearse(
        task(*(understudy(n) for n in range(4)), understudy(9, share=0.0)), nobody
    )
    assert [(one.target, one.share) for one in found.missed] == [("d9", 1.0)]


async def test_what_can_not_be_rehearsed_is_said_in_its_own_words() -> None:
    with pytest.raises(RefusedError, match="selects no device"):
        await RehearsalProcess(COMMAND).rehearse(task(understudy(1, ring="late")), nobody)


async def test_who_kills_it_kills_all_that_it_started() -> None:
    begun = asyncio.Event()

    async def tell(done: int, so_far: Rehearsal | None) -> None:
        begun.set()

    process = RehearsalProcess(COMMAND)
    many = task(*map(understudy, range(FEW + 1)))
    running = asyncio.create_task(process.rehearse(msgspec.structs.replace(many, replicas=1000), tell))
    await asyncio.wait((asyncio.ensure_future(begun.wait()), running), return_when=asyncio.FIRST_COMPLETED)
    workers = [
        pid for rehearsing in children_of(os.getpid()) if is_rehearsing(rehearsing) for pid in children_of(rehearsing)
    ]
    assert len(workers) >= usual_processes(FEW + 1) > 0
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    while any(map(is_alive, workers)):  # noqa: ASYNC110 - nobody tells of processes that aren't ours
        await asyncio.sleep(0.05)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_rehearsing(pid: int) -> bool:
    return COMMAND[1].encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_its_memory_is_bounded() -> None:
    with pytest.raises(OtariaError, match=r"more than 1 MiB|ended with"):
        await RehearsalProcess(COMMAND, memory_bytes=1 << 20).rehearse(task(*map(understudy, range(3000))), nobody)
