"""Which job carries out which slow command of the core, and in which lane."""

from collections.abc import Callable
from dataclasses import dataclass

from device_agent import work
from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.states import Standing
from device_agent.data import jobs
from device_agent.work import Job, JobDone, Lane, Ports, StopFlag
from firmware.checks import HealthCheck

_LANES = {
    do.Stage: Lane.SLOT,
    do.RunHealth: Lane.HEALTH,
    do.RunHeartbeat: Lane.HEALTH,
    do.CommitTrial: Lane.BOOT,
    do.Clear: Lane.LOCAL,
    do.Migrate: Lane.DATA,
    do.RemoveData: Lane.DATA,
}
"""Of the jobs that may be told to end early."""
_Stoppable = do.Stage | do.CommitTrial | do.Migrate | do.Clear | do.RunHealth | do.RunHeartbeat


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a job is made with: the agent's `standing`, trusted POSIX seconds, a jitter in [0, 1), the device's own health checks,
    and what makes, for an order's hash, a callback that is told bytes done and in all on the job's thread."""

    standing: Standing
    hardware: str
    trusted_time: float
    jitter: float
    own_checks: tuple[HealthCheck, ...]
    progress: Callable[[str], Callable[[int, int], None]]


def lane_of(command: do.Work) -> Lane | None:
    """The lane of a job that may be told to end early; None of all others."""
    return _LANES.get(type(command))


def job_of(command: do.Work, ports: Ports, moment: Moment, stop: StopFlag) -> Job:
    """The job that carries it out. `stop` lets it end early, if it is one that may."""
    if isinstance(command, do.CheckOrder):
        return work.as_job(Lane.CATALOGUE, _check(command, ports, moment))
    if isinstance(command, do.VerifySlot):
        return work.as_job(Lane.SLOT, lambda: work.verify_slot(ports, command))
    if isinstance(command, do.VerifyPrevious):
        nonce = ports.chance.nonce()
        return work.as_job(Lane.SLOT, lambda: work.verify_previous(ports, command, nonce=nonce))
    if isinstance(command, do.ShowData):
        return Job(lane=Lane.DATA, run=_quietly(Lane.DATA, lambda: jobs.show(ports, command)))
    if isinstance(command, do.RemoveData):
        return Job(lane=Lane.DATA, run=_quietly(Lane.DATA, lambda: jobs.remove(ports, command, stop=stop)))
    return work.as_job(_LANES[type(command)], _stoppable(command, ports, moment, stop))


def _stoppable(command: _Stoppable, ports: Ports, moment: Moment, stop: StopFlag) -> Callable[[], ev.Event]:
    trusted_time, jitter, own = moment.trusted_time, moment.jitter, moment.own_checks
    if isinstance(command, do.CommitTrial):
        return lambda: work.commit_trial(ports, command, stop=stop)
    if isinstance(command, do.Migrate):
        return lambda: jobs.migrate(ports, command, stop=stop)
    if isinstance(command, do.Clear):
        return lambda: work.clear(ports, command, trusted_time=trusted_time, stop=stop, jitter=jitter)
    if isinstance(command, do.RunHealth):
        return lambda: work.run_health(ports, command, own=own, stop=stop)
    if isinstance(command, do.RunHeartbeat):
        return lambda: work.run_heartbeat(ports, command, own=own, stop=stop)
    on_progress = moment.progress(command.held.hash)
    return lambda: work.stage(
        ports, command, on_progress=on_progress, stop=stop, jitter=jitter, trusted_time=trusted_time
    )


def _check(command: do.CheckOrder, ports: Ports, moment: Moment) -> Callable[[], ev.Event]:
    standing = moment.standing
    return lambda: work.check_order(
        ports,
        command.held,
        hardware=moment.hardware,
        floors=standing.floors,
        running=standing.slots.get(standing.boot.slot),
        trusted_time=moment.trusted_time,
        jitter=moment.jitter,
    )


def _quietly(lane: Lane, run: Callable[[], None]) -> Callable[[], JobDone]:
    """A job that nothing follows from."""

    def done() -> JobDone:
        run()
        return JobDone(lane=lane)

    return done
