"""From `agent.toml` to the slots and the sources that it names."""

import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.config import MQTT_SOURCE, SERVER_SOURCE, Config, SourceTable
from device_agent.effects import FileMedia
from device_agent.install.blocks import BlockSource
from device_agent.install.rate import RateLimit
from device_agent.install.sources import Named, Sources
from device_agent.ports import BootControl, Effects, Fetch, MonotonicClock, SlotSets
from device_agent.slots.devices import protected_by, slot_sets
from device_agent.slots.files import board_slots
from device_agent.slots.places import parse_size, places_of
from firmware.contents import ROOT_SET
from firmware.errors import RefusedError

if TYPE_CHECKING:  # few agents are on hosts
    from device_agent.packages.opening import HostParts


def open_slots(
    config: Config, effects: Effects, board: Path, boot: BootControl, host: "HostParts | None" = None
) -> SlotSets:
    """The slots that `agent.toml` names, or the board's files when it names none; a host's own."""
    if host is not None:
        return {ROOT_SET: host.slots}
    places = places_of(config.slots)
    if not places:
        return board_slots(effects, board)
    return slot_sets(places, FileMedia(), protected=lambda: protected_by(boot))


def open_sources(directory: Path, config: Config, server: Fetch, blocks: BlockSource, clock: MonotonicClock) -> Sources:
    """The sources of artifacts in the operator's order, under the operator's rate. Raises `RefusedError` (`bad-config`)."""
    named = [_source(directory, one, server, blocks) for one in config.sources]
    limit = RateLimit(parse_size(config.download_rate), seconds=clock.seconds, sleep=time.sleep)
    return Sources(named, seconds=clock.seconds, limit=limit)


def speaks_http(config: Config) -> bool:
    """Whether the catalogue comes from the server's listener: unless the operator names the broker, and not the server."""
    return SERVER_SOURCE in config.sources or MQTT_SOURCE not in config.sources


def _source(directory: Path, given: str | SourceTable, server: Fetch, blocks: BlockSource) -> Named:
    if given == SERVER_SOURCE:
        return Named(name=SERVER_SOURCE, source=server, is_server=True)
    if given == MQTT_SOURCE:
        return Named(name=MQTT_SOURCE, source=blocks)
    from device_agent.transport.store_http import HttpStore  # only a worker fetches: the resident process needs no HTTP

    table = SourceTable(url=given) if isinstance(given, str) else given
    try:
        context = ssl.create_default_context(cafile=directory / table.ca) if table.ca else None
    except OSError as error:
        raise RefusedError("bad-config", f"{table.ca} is no readable PEM file: {error}. Correct agent.toml.") from error
    return Named(name=table.url, source=HttpStore(table.url, context))
