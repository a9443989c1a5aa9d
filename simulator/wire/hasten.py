"""A world that goes faster: every duration of its campaigns divided, so that days of it pass within minutes of the wall clock.

What takes its time on the wire whatever the world says, such as three boots of a slot that doesn't come up, sets a least: no
trial is shorter than `LEAST_TRIAL_S`. Hours of the day can't be hastened; campaigns that are bound to them are refused.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from firmware.errors import RefusedError
from server.campaigns.strategy_file import parse_campaign

LEAST_TRIAL_S = 25
MORE_S = 5
"""By how much a horizon is longer than its trial at least."""
_DURATION = re.compile(r"[0-9]+(?:\.[0-9]+)?[smhdw]")
_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LEAST = {"trial": LEAST_TRIAL_S, "horizon": LEAST_TRIAL_S + MORE_S, "patience": 10, "retry": 2, "healthy": 1}
"""Seconds, of the durations that every strategy has, said or not."""


def hastened(text: str, factor: float) -> str:
    """The campaign file with all its strategy's durations divided. Raises `RefusedError` (`not-hastened`, or as its parser)."""
    if factor == 1:
        return text
    spec = parse_campaign(text)
    if spec.strategy.calendar.windows or spec.strategy.calendar.freezes:
        raise RefusedError("not-hastened", f"Campaign {spec.name} has windows or freezes, and hours can't be hastened.")
    loaded: dict[str, Any] = yaml.safe_load(text)
    strategy = loaded["strategy"]
    if isinstance(strategy, str):
        strategy = {"extends": strategy, "name": strategy}
    divided = _divided(strategy, factor)
    for key, least in _LEAST.items():
        divided[key] = f"{max(least, round(getattr(spec.strategy, f'{key}_s') / factor))}s"
    divided["horizon"] = f"{max(_seconds(divided['horizon']), _seconds(divided['trial']) + MORE_S)}s"
    return str(yaml.safe_dump({**loaded, "strategy": divided}, sort_keys=False))


def _divided(value: Any, factor: float) -> Any:
    if isinstance(value, Mapping):
        return {key: _divided(one, factor) for key, one in value.items()}
    if isinstance(value, list):
        return [_divided(one, factor) for one in value]
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return f"{max(1, round(_seconds(value) / factor))}s"
    return value


def _seconds(text: str) -> int:
    return round(float(text[:-1]) * _UNIT[text[-1]])
