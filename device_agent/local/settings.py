"""`[hooks]` and `[local]` of `agent.toml`, and the policy they make. What can't be meant is refused when the agent starts."""

from datetime import UTC, time
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from device_agent.core.values import Phase
from device_agent.health.runner import HealthRunner
from device_agent.local.hooks import MAX_HOOKS, Hook, Hooks, Point
from device_agent.local.policy import Condition, LocalPolicy
from firmware.checks import HealthCheck, require_understood
from firmware.errors import RefusedError
from firmware.protocol.words import Kind
from firmware.windows import DAYS, Window, load_zone

CLOCK_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z"
AbsolutePath = Annotated[str, Meta(max_length=512, pattern=r"^(/[^\x00]*)?\Z")]
Clock = Annotated[str, Meta(pattern=CLOCK_PATTERN)]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Seconds = Annotated[float, Meta(gt=0, le=3600)]


class HookEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One program at one point."""

    at: Point
    argv: Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(min_length=1, max_length=32)]
    timeout_s: Seconds | None = None


class HookSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`directory`: where programs named after points are (empty: nowhere). `retry_s`: when one that said no is asked again."""

    directory: AbsolutePath = ""
    timeout_s: Seconds = 60.0
    retry_s: Annotated[float, Meta(gt=0, le=86400)] = 300.0
    run: Annotated[list[HookEntry], Meta(max_length=MAX_HOOKS)] = []


class WindowEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A weekly window; `days` are those on which it starts, every day when none is named."""

    start: Clock
    end: Clock
    days: Annotated[list[Day], Meta(max_length=7)] = []


class ConditionEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check that must pass before something."""

    name: Kind
    check: HealthCheck
    before: Annotated[list[Phase], Meta(min_length=1, max_length=2)] = field(default_factory=lambda: [Phase.ACTIVATION])


class LocalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device's owner decides. `commit`, `rollback`, `install`: whether somebody at the socket may ask for them."""

    consent: Literal["required", "not-required"] = "not-required"
    max_defer_s: Annotated[float, Meta(ge=0, le=366 * 86400)] = 7 * 86400.0
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    windows: Annotated[list[WindowEntry], Meta(max_length=32)] = []
    conditions: Annotated[list[ConditionEntry], Meta(max_length=32)] = []
    commit: bool = False
    rollback: bool = False
    install: bool = True
    socket: Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*\Z")] = "agent.sock"
    group: Annotated[str, Meta(max_length=64)] = ""


def require_sensible(hooks: HookSettings, local: LocalSettings) -> None:
    """Raise `RefusedError` for what has the right shape and can't be meant: a check or a zone that there is not."""
    require_understood(condition.check for condition in local.conditions)
    if len({condition.name for condition in local.conditions}) != len(local.conditions):
        raise RefusedError("bad-config", "Two conditions have one name.")
    try:
        policy_of(hooks, local)
    except ValueError as error:
        raise RefusedError("bad-config", f"{error}.") from error


def policy_of(hooks: HookSettings, local: LocalSettings, runner: HealthRunner | None = None) -> LocalPolicy:
    """The policy that the settings describe; raises `ValueError` for a time zone that isn't known here."""
    entries = [Hook(at=one.at, argv=tuple(one.argv), timeout_s=one.timeout_s or hooks.timeout_s) for one in hooks.run]
    directory = Path(hooks.directory) if hooks.directory else None
    return LocalPolicy(
        hooks=Hooks(entries, directory, timeout_s=hooks.timeout_s),
        windows=[_window(one) for one in local.windows],
        zone=load_zone(local.timezone) if local.windows else UTC,
        conditions=[
            Condition(name=one.name, before=frozenset(one.before), check=one.check) for one in local.conditions
        ],
        runner=runner,
        retry_s=hooks.retry_s,
    )


def _window(entry: WindowEntry) -> Window:
    return Window(
        days=frozenset(DAYS.index(day) for day in entry.days or DAYS),
        start=time.fromisoformat(entry.start),
        end=time.fromisoformat(entry.end),
    )
