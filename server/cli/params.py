"""What people type as parameters of commands."""

import re
from typing import Any

import click

_DURATION = re.compile(r"^([1-9][0-9]{0,6})(s|m|h|d)\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[Any]):
    """A duration such as 30m, 12h or 7d; becomes seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.match(str(value))
        if not match:
            self.fail(f"{value!r} is not a duration; write one such as 30m, 12h or 7d.", param, ctx)
        return int(match.group(1)) * _UNITS[match.group(2)]


class KeyValue(click.ParamType[Any]):
    """`name=value`; becomes a pair."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not of the form name=value, such as site=berlin.", param, ctx)
        return name, text
