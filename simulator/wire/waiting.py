"""What the jobs of a device wait by that may wait for the broker, until its power goes."""

import threading


class PowerLostError(Exception):
    """The device that a job waited for has no power any more: the job is over, as all of its memory is."""


class Waiting(threading.Condition):
    """Of one boot. Jobs wait on threads of their own; `end` is called on the hub's."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False

    def wait(self, timeout: float | None = None) -> bool:
        """As of any condition; raises `PowerLostError` once it is over."""
        told = self.is_over or super().wait(timeout)
        if self.is_over:
            raise PowerLostError
        return told

    def end(self) -> None:
        """The power is gone."""
        with self:
            self.is_over = True
            self.notify_all()
