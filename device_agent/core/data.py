"""Data that a release keeps beside the slots: which schema runs, what a new one needs, what may go, and when.

Each schema has a folder of its own. A release that wants another schema gets a copy of the old data, migrated in its trial; the
old folder is never written again, so that falling back and going back find it as it was. What was written since is lost with the
folder that holds it, and reports say so. Data goes when nothing can go back to it any more: a trial's when the trial failed,
the previous slot's when another release was staged over that slot, or after `DataPolicy.keep_s`. It is marked as gone before it
is removed: nothing goes back to what is half removed.
"""

from msgspec.structs import replace

from device_agent.core.commands import Command, RemoveData, ShowData, Tell
from device_agent.core.states import Standing, Trial, word_of
from device_agent.core.values import Content, DataPolicy, Goal, Migration, Moment, Tuning
from device_agent.ports import BootOutcome
from firmware.manifest import Data as Declared
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState, ReasonKind

Outcome = tuple[Standing, tuple[Command, ...]]
LOOK_LEAST_S, LOOK_MOST_S = 60.0, 6 * 3600.0
MAX_SCHEMAS = 64


def schema_of(content: Content | None, tuning: Tuning) -> int | None:
    """The schema of the data that a slot's release keeps, or None on a device that keeps none."""
    if tuning.data is None:
        return None
    known = content.data_schema if content is not None else None
    return tuning.data.factory_schema if known is None else known


def running_schema(standing: Standing, tuning: Tuning) -> int | None:
    """The schema of what runs."""
    return schema_of(standing.slots.get(standing.boot.slot), tuning)


def with_data(goal: Goal, declared: Declared | None, standing: Standing, tuning: Tuning) -> Goal | Reason:
    """The goal with the schema that it will keep and the migration to it, or why this device's data doesn't lead there."""
    now = running_schema(standing, tuning)
    if declared is None:
        return replace(goal, content=replace(goal.content, data_schema=now))
    if now is None:
        text = f"The release keeps data of schema {declared.schema}, and this device has no place for any: set [data] directory."
        return Reason(kind=ReasonKind.DATA_NO_PLACE, text=text)
    content = replace(goal.content, data_schema=declared.schema)
    if declared.schema == now:
        return replace(goal, content=content)
    if now not in declared.migrates:
        known = ", ".join(str(schema) for schema in declared.migrates) or "none"
        text = (
            f"The data here is of schema {now}; the release keeps schema {declared.schema} and migrates from: {known}."
        )
        return Reason(kind=ReasonKind.DATA_NO_PATH, text=text[:1024])
    migration = Migration(
        source=now,
        schema=declared.schema,
        argv=tuple(declared.argv),
        timeout_s=declared.timeout_s,
        room_bytes=declared.room_bytes,
    )
    return replace(goal, content=content, migration=migration)


def why_gone(standing: Standing, content: Content) -> Reason | None:
    """Why nothing can go back to a release: its data is gone."""
    schema = content.data_schema
    if schema is None or schema not in standing.data.gone:
        return None
    text = f"The data of schema {schema}, which {content.product} {content.version} keeps, was removed; update forward instead."
    return Reason(kind=ReasonKind.DATA_GONE, text=text)


def not_there(content: Content) -> Reason:
    """Why nothing can go back to a release whose data was looked for in vain."""
    text = f"The data of schema {content.data_schema}, which {content.product} {content.version} keeps, isn't there any more."
    return Reason(kind=ReasonKind.DATA_GONE, text=text)


def lost(standing: Standing, content: Content) -> Standing:
    """A release's data was looked for and isn't there."""
    return _gone(standing, () if content.data_schema is None else (content.data_schema,))


def needs_migration(state: Trial) -> bool:
    """Whether the trial's data has yet to be made."""
    return state.goal.migration is not None and not state.migrated


def booted(standing: Standing, commands: tuple[Command, ...], moment: Moment) -> Outcome:
    """Show what runs its data, and finish what was to be removed."""
    policy, state = moment.tuning.data, standing.state
    if policy is None:
        return standing, commands
    if isinstance(state, Trial):
        ready = state.gave_up is None and not needs_migration(state)
        schema = schema_of(state.goal.content, moment.tuning)
        return standing, commands if not ready or schema is None else (ShowData(schema=schema), *commands)
    running = running_schema(standing, moment.tuning)
    if standing.boot.outcome is BootOutcome.TRIAL and not _is_committed(standing):
        return standing, commands
    after = _named(standing, policy)
    after = after if running is None else _found(after, running)
    data = after.data
    if data.leaving is not None:
        data = replace(
            data, leaving=None if data.leaving == running else data.leaving, look_at=moment.now + LOOK_LEAST_S
        )
    show: tuple[Command, ...] = () if running is None else (ShowData(schema=running),)
    after = replace(after, data=data)
    return after, (*show, *commands, *((_removal(after),) if data.gone else ()))


def staged(standing: Standing, tuning: Tuning) -> Outcome:
    """The previous slot was overwritten: all data but that of what runs is of no use any more."""
    running = running_schema(standing, tuning)
    old = tuple(schema for schema in standing.data.held if schema != running)
    if running is None or not old:
        return standing, ()
    after = _gone(standing, old)
    return replace(after, data=replace(after.data, leaving=None, look_at=None)), (_removal(after),)


def fell_back(standing: Standing, goal: Goal) -> Outcome:
    """A trial failed: what it made is of no use, and what it was made of is as it was."""
    if goal.migration is None:
        return standing, ()
    after = _gone(standing, (goal.migration.schema,))
    return after, (_removal(after),)


def migrated(standing: Standing, migration: Migration) -> Standing:
    """The data of a new schema was made."""
    return _found(standing, migration.schema)


def committed(standing: Standing, goal: Goal, moment: Moment) -> Standing:
    """A release was committed. With a policy that says so, the data it was migrated from has its days numbered."""
    policy, migration = moment.tuning.data, goal.migration
    if policy is None or policy.keep_s is None or migration is None:
        return standing
    leaves_at = moment.trusted_time + policy.keep_s
    wait_s = min(max(policy.keep_s, LOOK_LEAST_S), LOOK_MOST_S)
    data = replace(standing.data, leaving=migration.source, leaves_at=leaves_at, look_at=moment.now + wait_s)
    return replace(standing, data=data)


def look_at(standing: Standing) -> float | None:
    """Monotonic seconds at which to look whether kept data may go, or None. Never in a trial."""
    if standing.data.leaving is None or isinstance(standing.state, Trial):
        return None
    return standing.data.look_at


def look(standing: Standing, moment: Moment) -> Outcome:
    """Let the kept data go when its time has come and nothing is on its way back to it."""
    data = standing.data
    if data.leaving is None:
        return standing, ()
    goal = getattr(standing.state, "goal", None)
    wanted = goal is not None and goal.content.data_schema == data.leaving
    left_s = data.leaves_at - moment.trusted_time
    if left_s > 0 or wanted or data.leaving == running_schema(standing, moment.tuning):
        wait_s = min(max(left_s, LOOK_LEAST_S), LOOK_MOST_S)
        return replace(standing, data=replace(data, look_at=moment.now + wait_s)), ()
    after = _gone(standing, (data.leaving,))
    after = replace(after, data=replace(after.data, leaving=None, look_at=None))
    text = f"The data of schema {data.leaving} was kept as long as wanted and is removed: going back to what used it ends here."
    reason = Reason(kind=ReasonKind.DATA_GONE, text=text)
    held = standing.vigil.held if standing.vigil is not None else None
    state = word_of(standing.state) if held is None else AgentState.COMMITTED
    return after, (Tell(state=state, held=held, reason=reason), _removal(after))


def lost_since(standing: Standing, goal: Goal, tuning: Tuning) -> dict[str, str]:
    """For the report of going back: what is lost with the data that is left."""
    now = schema_of(goal.content, tuning)
    left = schema_of(standing.slots.get(goal.slot.other), tuning)
    if now is None or left is None or now == left:
        return {}
    return {
        "data": f"It went back to its data of schema {now} as that was before the update. What was written since, in schema "
        f"{left}, is not in it."
    }


def kept_from(goal: Goal) -> dict[str, str]:
    """For the report of a failed trial: what became of the data."""
    if goal.migration is None:
        return {}
    text = f"The data of schema {goal.migration.source} is as it was; what the trial made in schema {goal.migration.schema} goes."
    return {"data": text}


def _is_committed(standing: Standing) -> bool:
    running = standing.slots.get(standing.boot.slot)
    return running is not None and running.good


def _named(standing: Standing, policy: DataPolicy) -> Standing:
    """What slots hold from before anybody spoke of data keeps what the factory gave."""
    slots = {
        slot: content if content.data_schema is not None else replace(content, data_schema=policy.factory_schema)
        for slot, content in standing.slots.items()
    }
    return replace(standing, slots=slots)


def _removal(standing: Standing) -> RemoveData:
    """Remove what is gone; the boot loader must not come back to a good slot without its data."""
    other = standing.boot.slot.other
    content = standing.slots.get(other)
    stranded = content is not None and content.good and content.data_schema in standing.data.gone
    return RemoveData(schemas=standing.data.gone, retire=other if stranded else None)


def _found(standing: Standing, schema: int) -> Standing:
    data = standing.data
    held = data.held if schema in data.held else (*data.held, schema)[-MAX_SCHEMAS:]
    gone = tuple(one for one in data.gone if one != schema)
    return replace(standing, data=replace(data, held=held, gone=gone))


def _gone(standing: Standing, schemas: tuple[int, ...]) -> Standing:
    data = standing.data
    gone = (*(one for one in data.gone if one not in schemas), *schemas)[-MAX_SCHEMAS:]
    held = tuple(one for one in data.held if one not in schemas)
    return replace(standing, data=replace(data, held=held, gone=gone))
