"""The core's commands about data as jobs: each runs on any thread and blocks."""

import logging
from collections.abc import Callable

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.work import Ports, facts_of
from firmware.errors import OtariaError
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)


def migrate(ports: Ports, command: do.Migrate, *, stop: Callable[[], bool]) -> ev.Event:
    """Make the data that the trial needs."""
    if ports.data is None:
        text = "This device's settings name no place for data any more: set [data] directory."
        reason: Reason | None = Reason(kind=ReasonKind.DATA_NO_PLACE, text=text)
    else:
        reason = ports.data.migrate(command.migration, facts_of(command.held), stop)
    if reason is not None:
        return ev.MigrationFailed(trial_id=command.trial_id, reason=reason)
    return ev.Migrated(trial_id=command.trial_id)


def show(ports: Ports, command: do.ShowData) -> None:
    """Let what runs find its data."""
    try:
        if ports.data is not None:
            ports.data.show(command.schema)
    except OSError as error:
        log.error("the data can't be shown", extra={"schema": command.schema, "reason": str(error)})


def remove(ports: Ports, command: do.RemoveData, *, stop: Callable[[], bool]) -> None:
    """Remove data that nothing needs any more; what is left of it is removed at the next start."""
    try:
        if ports.data is None:
            return
        if command.retire is not None and any(ports.data.has(schema) for schema in command.schemas):
            ports.boot.retire(command.retire)
        for schema in command.schemas:
            ports.data.remove(schema, stop)
    except (OtariaError, OSError) as error:
        log.warning("old data can't be removed yet", extra={"reason": str(error)})
