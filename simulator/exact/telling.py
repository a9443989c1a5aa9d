"""An exact run told as other runs are: its outcome, where it left a kept trace, and how each campaign went."""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from server.planner.states import FAILURES
from server.planner.words import AssignmentState
from server.ports import CampaignView
from simulator.exact.run import ExactRun, play
from simulator.exact.trace import Difference, Head, Trace, head_of
from simulator.virtual.chances import seeded
from simulator.virtual.defects import Defects
from simulator.virtual.device import LATE_DEFECTS
from simulator.virtual.outcome import CampaignOutcome, CohortOutcome, Outcome
from simulator.virtual.world import World
from simulator.wire.cuts import cuts_of

MEMORY = Path("/dev/shm")  # noqa: S108 - a fresh directory in it, where there is one: nothing here has to outlive the run
UNREACHED = (
    AssignmentState.PLANNED,
    AssignmentState.EXPIRED,
    AssignmentState.ORDERED,
    AssignmentState.DOWNLOADING,
)


class Told(Struct, frozen=True, kw_only=True):
    """`difference`: from the trace that it was held against; None when there is none."""

    outcome: Outcome
    lines: int
    difference: Difference | None = None


def run_exactly(world: World, *, seed: int | None = None, out: Path | None = None, kept: Path | None = None) -> Told:
    """Run a world with real agents and the server's own core. `out`: where its trace is written once it is whole; `kept`: an
    earlier one that it is held against, and whose seed it has unless one is given. Raises `RefusedError` (`too-early`,
    `no-trace`, `other-trace`)."""
    if seed is None:
        seed = world.seed if kept is None else head_of(kept).seed
    trace = Trace(Head(world=world.name, seed=seed), out=out, kept=kept)
    try:
        with room() as directory, _quietly():
            run = ExactRun(world, directory, trace, seed=seed)
            seconds = play(run)
    finally:
        trace.drop()
    return Told(outcome=outcome_of(run, seconds), lines=trace.lines, difference=trace.difference)


@contextmanager
def room() -> Iterator[Path]:
    """A directory of its own, in memory where that can be."""
    where = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="otaria-exact-", dir=where) as directory:
        yield Path(directory)


@contextmanager
def _quietly() -> Iterator[None]:
    """Agents and server warn of what worlds do to them; here that is no news."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def outcome_of(run: ExactRun, seconds: float) -> Outcome:
    """How a run that was played went."""
    told = [f"After {one.at_s:.0f} s: {one.text}" for one in run.ledger.kept]
    return Outcome(
        world=run.world.name,
        seed=run.seed,
        virtual_days=run.ends_s / 86400,
        seconds=seconds,
        events=run.events,
        digest=run.trace.digest,
        campaigns=tuple(_campaign(run, view) for view in reversed(run.views)),
        broken=run.ledger.broken + run.books.broken,
        violations=(*run.books.violations, *told),
        ignored=dict(sorted((run.refused + run.broker.refused + run.server.dropped).items())),
        hostile=len(run.hostile.does),
        cuts=cuts_of(run.world, run.moments),
    )


def _campaign(run: ExactRun, view: CampaignView) -> CampaignOutcome:
    name, marks = view.row.id, run.marks[view.row.id]
    counts: Counter[AssignmentState] = Counter()
    for cohort in view.cohorts:
        counts.update(cohort.counts)
    back = counts[AssignmentState.FELL_BACK] + counts[AssignmentState.REGRESSED]
    return CampaignOutcome(
        campaign=name,
        state=view.row.state,
        reason=view.row.reason,
        targets=sum(cohort.size for cohort in view.cohorts),
        counts={str(state): number for state, number in sorted(counts.items()) if number},
        verified=counts[AssignmentState.VERIFIED],
        fell_back=back,
        failed=sum(counts[state] for state in FAILURES) - back,
        unreached=sum(counts[state] for state in UNREACHED),
        harmed=harmed(run, name),
        admitted=marks.admitted if marks.stopped_s is not None else sum(cohort.attempted for cohort in view.cohorts),
        stopped_s=marks.stopped_s,
        done_s=marks.done_s,
        cohorts=tuple(
            CohortOutcome(
                name=one.name,
                size=one.size,
                opened_s=None if one.opened_at is None else one.opened_at - run.world.begins,
                decided_s=marks.decided_s.get(one.index),
                state=one.state,
            )
            for one in view.cohorts
        ),
        waits=dict(run.waits.most_common()),
        hostile=run.hostile.counted(run.states[name]),
    )


def harmed(run: ExactRun, campaign: str) -> int:
    """Devices that followed a permit of the campaign and were hurt by its release, by their own truth."""
    version = next(start.spec.version for start in run.world.campaigns if start.spec.name == campaign)
    release = next(one for one in run.world.releases if one.version == version)
    defects, fell_back = Defects(release, run.seed), {one.member for one in run.moments if one.state == "fell_back"}
    found = 0
    for name, member in run.down.followed:
        defect = defects.of(run.members[member].hardware, seeded(run.seed, member)) if name == campaign else None
        found += defect is not None and (defect[0] not in LATE_DEFECTS or member in fell_back)
    return found
