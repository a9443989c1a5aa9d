"""What the device itself wants: windows and conditions that withhold, and hooks. Blocking; run by jobs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from device_agent.core.values import Phase
from device_agent.health.runner import HealthRunner
from device_agent.local.hooks import LATER, NEVER, Hooks, Point, Said
from firmware.checks import HealthCheck
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind
from firmware.windows import Window, opening

VALID_S = 600.0
"""How long a yes holds, unless a window closes earlier."""
CONDITION_EVERY_S = 30.0
_BEFORE = {
    Phase.DOWNLOAD: (Point.BEFORE_DOWNLOAD, Point.BEFORE_INSTALL),
    Phase.ACTIVATION: (Point.BEFORE_ACTIVATION,),
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A check that must pass before these phases, such as enough battery; a download stops while it doesn't."""

    name: str
    before: frozenset[Phase]
    check: HealthCheck


@dataclass(frozen=True, kw_only=True)
class No:
    """Withheld: to be asked again after `retry_s`, or with `veto` for good."""

    reason: Reason
    retry_s: float
    veto: bool = False


class LocalPolicy:
    """The device's say. Without arguments it says yes to everything and has no hooks."""

    def __init__(
        self,
        *,
        hooks: Hooks | None = None,
        windows: Sequence[Window] = (),
        zone: tzinfo = UTC,
        conditions: Sequence[Condition] = (),
        runner: HealthRunner | None = None,
        retry_s: float = 300.0,
    ) -> None:
        self._hooks = hooks or Hooks()
        self._windows, self._zone, self._conditions = tuple(windows), zone, tuple(conditions)
        self._runner = runner or HealthRunner()
        self._retry_s = retry_s

    @property
    def asks_before_activation(self) -> bool:
        """Whether anything here may withhold an activation."""
        return bool(
            self._windows
            or self._hooks.has(Point.BEFORE_ACTIVATION)
            or any(Phase.ACTIVATION in condition.before for condition in self._conditions)
        )

    def look(self, phase: Phase, facts: Mapping[str, str], trusted_time: float, stop: Callable[[], bool]) -> No | float:
        """Why the phase is withheld, or for how many seconds it is allowed. `trusted_time`: POSIX seconds."""
        valid_s = VALID_S
        if phase is Phase.ACTIVATION and self._windows:
            now = opening(self._windows, self._zone, trusted_time)
            left_s = now.until - trusted_time
            if not now.is_open:
                return No(reason=self._closed(now.until), retry_s=min(left_s, 86400.0))
            valid_s = min(valid_s, left_s)
        unmet = self.unmet(phase, stop)
        if unmet is not None:
            return No(reason=unmet, retry_s=self._retry_s)
        began = time.monotonic()
        for point in _BEFORE[phase]:
            said = self._hooks.run(point, facts, stop)
            if not said.fine:
                return No(reason=why(said), retry_s=self._retry_s, veto=said.code == NEVER)
        return max(0.0, valid_s - (time.monotonic() - began))

    def unmet(self, phase: Phase, stop: Callable[[], bool]) -> Reason | None:
        """The first condition of the phase that isn't met."""
        for condition in self._conditions:
            if phase in condition.before:
                seen = self._runner.run([condition.check], program_port=None, stop=stop)
                if not seen.healthy:
                    text = f"Condition {condition.name} is not met. {seen.text}"[:1024]
                    return Reason(kind=ReasonKind.CONDITION_NOT_MET, text=text)
        return None

    def lost(self, phase: Phase, stop: Callable[[], bool]) -> "Lost":
        """Something to ask often while the phase goes on."""
        return Lost(self, phase, stop)

    def has(self, point: Point) -> bool:
        """Whether there may be hooks at this point."""
        return self._hooks.has(point)

    def run(
        self, point: Point, facts: Mapping[str, str], stop: Callable[[], bool], *, to_the_end: bool = False
    ) -> Said:
        """Run the hooks of a point."""
        return self._hooks.run(point, facts, stop, to_the_end=to_the_end)

    def _closed(self, opens_at: float) -> Reason:
        text = "It waits for a maintenance window of this device."
        if opens_at != float("inf"):
            when = datetime.fromtimestamp(opens_at, self._zone).isoformat(timespec="minutes")
            text = f"It waits for this device's next maintenance window, which opens at {when}."
        return Reason(kind=ReasonKind.OUTSIDE_WINDOW, text=text)


class Lost:
    """Called often by who works in a phase: True once the agent stops or a condition fails (`reason`). Conditions are looked at
    every `CONDITION_EVERY_S`."""

    def __init__(self, policy: LocalPolicy, phase: Phase, stop: Callable[[], bool]) -> None:
        self._policy, self._phase, self._stop = policy, phase, stop
        self._looked_at = time.monotonic()
        self.reason: Reason | None = None

    def __call__(self) -> bool:
        now = time.monotonic()
        if self.reason is None and now - self._looked_at >= CONDITION_EVERY_S and not self._stop():
            self._looked_at = now
            self.reason = self._policy.unmet(self._phase, self._stop)
        return self._stop() or self.reason is not None


def why(said: Said) -> Reason:
    """The reason in what a hook said."""
    kind = {LATER: ReasonKind.HOOK_DEFERRED, NEVER: ReasonKind.VETOED}.get(said.code or 0, ReasonKind.HOOK_FAILED)
    return Reason(kind=kind, text=said.text[:1024])
