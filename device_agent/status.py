"""What an agent's directory says about it, read from its durable files only; a running agent is not disturbed."""

from pathlib import Path
from typing import Any

import msgspec

from device_agent.boot.backend import open_boot
from device_agent.config import Config, load_config
from device_agent.core.machine import running_of
from device_agent.core.states import Downloading, Ordered, Standing, word_of
from device_agent.effects import FileEffects
from device_agent.identity import load_identity
from device_agent.journal import Journal
from device_agent.ports import BootStatus
from firmware.errors import OtariaError


def agent_status(directory: Path) -> dict[str, Any]:
    """Identity, boot, state and running release as one JSON object. Raises `UnavailableError`, `RefusedError`."""
    directory = directory.absolute()
    identity, config = load_identity(directory), load_config(directory)
    record = Journal(FileEffects(), directory).load()
    status = _boot_status(directory, config)
    out: dict[str, Any] = {
        "agent": identity.agent,
        "target": identity.target,
        "hardware": identity.hardware,
        "boot": None if status is None else msgspec.to_builtins(status),
    }
    if record is None:
        return out | {"state": "unstarted", "waiting_reports": 0}
    facts = standing_facts(record.standing, len(record.outbox.entries))
    return out | facts | {"journal": record.outbox.journal}


def status_text(status: dict[str, Any]) -> str:
    """The same for people."""
    running = status.get("running") or {}
    lines = [
        f"agent     {status['agent']} ({status['hardware']})",
        f"state     {status['state']}" + _why(status),
        f"running   {running.get('product') or 'unknown'} {running.get('version') or ''}".rstrip()
        + (f" in slot {running['slot']}" if running else ""),
        f"rollback  {running.get('previous_version') or 'not available'}",
        f"reports   {status['waiting_reports']} waiting for the server",
    ]
    regressed = status.get("regressed")
    if regressed:
        lines.append(f"regressed {regressed['text']}")
    return "\n".join(lines)


def standing_facts(standing: Standing, waiting_reports: int) -> dict[str, Any]:
    """What there is to say about a standing."""
    vigil = standing.vigil
    held = getattr(standing.state, "held", None)
    reason = getattr(standing.state, "reason", None)
    return {
        "state": word_of(standing.state).value,
        "reason": None if reason is None else msgspec.to_builtins(reason),
        "order": None if held is None else held.hash,
        "change_id": None if held is None else held.order.change_id,
        "running": msgspec.to_builtins(running_of(standing)),
        "waits_because": _waits_because(standing),
        "counter": None if standing.highest is None else msgspec.to_builtins(standing.highest),
        "waiting_reports": waiting_reports,
        "regressed": None if vigil is None or vigil.regressed is None else msgspec.to_builtins(vigil.regressed),
        "put_off_until": int(standing.local.defer_until) or None,
        "consented": held is not None and standing.local.consent == held.hash,
    }


def _waits_because(standing: Standing) -> str | None:
    """The kind of what keeps an order from being checked or fetched just now."""
    state = standing.state
    is_waiting = isinstance(state, Ordered | Downloading) and state.retry_at is not None
    return state.told or None if is_waiting and isinstance(state, Ordered | Downloading) else None


def _boot_status(directory: Path, config: Config) -> BootStatus | None:
    try:
        return open_boot(config.boot, directory, (directory / config.board).resolve(), FileEffects()).status()
    except OtariaError:
        return None


def _why(status: dict[str, Any]) -> str:
    reason = status.get("reason")
    return f": {reason['text']} ({reason['kind']})" if reason else ""
