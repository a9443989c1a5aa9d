"""The say of a simulated device's battery: the agent's own policy, over a gauge that the world reads."""

from collections.abc import Callable

from device_agent.core.values import Phase
from device_agent.local.policy import LocalPolicy
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

TEXT = "Condition battery is not met."


class Charge(LocalPolicy):
    """`is_enough`: whether there is enough for a restart now."""

    def __init__(self, is_enough: Callable[[], bool], *, retry_s: float) -> None:
        super().__init__(retry_s=retry_s)
        self._is_enough = is_enough

    @property
    def asks_before_activation(self) -> bool:
        return True

    def unmet(self, phase: Phase, stop: Callable[[], bool]) -> Reason | None:
        """See `LocalPolicy.unmet`."""
        if phase is not Phase.ACTIVATION or self._is_enough():
            return None
        return Reason(kind=ReasonKind.CONDITION_NOT_MET, text=TEXT)
