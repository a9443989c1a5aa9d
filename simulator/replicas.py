"""Runs of a rehearsal in several processes: each is the same whoever plays it, and they are handed out in their order.

Rules
- A process is handed the stage once, and then only numbers. What is refused comes back as a value, since errors don't travel.
- A process whose parent is gone ends itself: whoever kills a rehearsal kills all of it.
- With one process everything is played in this one.
"""

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from firmware.errors import RefusedError, UnavailableError
from server.planner.words import AssignmentState
from server.ports import CampaignSpec
from simulator.casting import Cast
from simulator.sampling import Part, Scaled
from simulator.tally import Tally, Whole
from simulator.virtual.outcome import CampaignOutcome
from simulator.virtual.run import UNREACHED, Run
from simulator.virtual.world import Fault, Member, Release, Start, World

DEFECT = "fails-health"
MOST_PROCESSES = 4
FEW = 200
NO_DOWNLOAD = (AssignmentState.PLANNED, AssignmentState.ORDERED, AssignmentState.EXPIRED, AssignmentState.SKIPPED)
_FETCHED = tuple(state for state in AssignmentState if state not in NO_DOWNLOAD)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every run has in common: the campaign with its strategy for the whole fleet, who plays and what part of the fleet
    they are, and when."""

    spec: CampaignSpec
    part: Part
    members: tuple[Member, ...]
    begins: float
    days: float
    seed: int
    image_bytes: int
    defect_on: str = ""
    """Of which hardware the devices are that a bad release is bad on; empty: of any."""
    cast: Cast | None = None

    def play(self, job: "Job") -> "Replica":
        """One run. Raises `RefusedError` (`nothing-selected`)."""
        faults = (Fault(kind=DEFECT, share=job.rate, hardware=self.defect_on),) if job.rate else ()
        scaled = Scaled(self.spec.strategy, self.part)
        world = World(
            name="rehearsal",
            about="",
            seed=self.seed + job.number,
            begins=self.begins,
            days=self.days,
            lots=(),
            releases=(Release(version=self.spec.version, faults=faults, size_bytes=self.image_bytes),),
            campaigns=(Start(spec=replace(self.spec, strategy=scaled.strategy())),),
        )
        members = self.members if self.cast is None else self.cast.members(self.members, world.seed)
        run = Run(world, members=members, is_hashed=False)
        tally = Tally(run, scaled)
        outcome = run.play()
        (campaign,), cohorts = outcome.campaigns, tally.cohorts(self.spec.name)
        whole = Whole(scaled, cohorts)
        if job.rate:
            return Replica(campaign, whole, outcome.broken, (), {})
        return Replica(campaign, whole, outcome.broken, self._missed(run), self._fetched(run))

    def _missed(self, run: Run) -> tuple[str, ...]:
        return tuple(row.target for row in run.store.in_states(self.spec.name, UNREACHED))

    def _fetched(self, run: Run) -> dict[str, int]:
        """How many targets of each site fetched the release; those without a site are under `""`."""
        sites = {one.id: one.labels.get("site", "") for one in self.members}
        found: dict[str, int] = {}
        for row in run.store.in_states(self.spec.name, _FETCHED):
            found[sites[row.target]] = found.get(sites[row.target], 0) + 1
        return found


class Job(NamedTuple):
    """The run of this number, of a release that is bad on this share of the devices."""

    number: int
    rate: float = 0.0


class Replica(NamedTuple):
    """What a run gave, and what that says of the `whole` fleet. `broken`: how often something that must hold did not;
    `fetched`: by site."""

    outcome: CampaignOutcome
    whole: Whole
    broken: int
    missed: tuple[str, ...]
    fetched: dict[str, int]


class Refusal(NamedTuple):
    """What a run was refused for."""

    kind: str
    text: str


class Player(Protocol):
    """Plays runs, and gives what came of them in the order of the jobs. Raises `RefusedError`, and `UnavailableError`
    (`rehearsal-broke`) when a process of it ends."""

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Replica]: ...


@contextmanager
def players(stage: Stage, processes: int) -> Iterator[Player]:
    """A player over so many processes, which end with this."""
    if processes <= 1:
        yield lambda jobs: (stage.play(job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_enter, initargs=(stage,)) as pool:
        try:
            yield lambda jobs: _in_order(pool, jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def usual_processes(targets: int) -> int:
    """As many as there are processors for us, within bounds; one for a few targets, since others would take longer to start."""
    return max(1, min(MOST_PROCESSES, len(os.sched_getaffinity(0)))) if targets > FEW else 1


def _in_order(pool: ProcessPoolExecutor, jobs: Iterable[Job]) -> Iterator[Replica]:
    try:
        for found in pool.map(_play, jobs):
            if isinstance(found, Refusal):
                raise RefusedError(found.kind, found.text)
            yield found
    except BrokenProcessPool as error:
        text = "A process of the rehearsal ended by itself; there may be too little memory for it."
        raise UnavailableError("rehearsal-broke", text) from error


_stages: list[Stage] = []
"""Of a process of the pool: its stage, once it was handed it."""


def _enter(stage: Stage) -> None:
    _stages[:] = [stage]
    gc.collect()
    gc.freeze()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _play(job: Job) -> Replica | Refusal:
    gc.disable()  # a run keeps nearly all that it makes until its end: looking for garbage meanwhile costs a tenth
    try:
        return _stages[0].play(job)
    except RefusedError as error:
        return Refusal(error.kind, error.text)
    finally:
        gc.enable()
        gc.collect()
