"""Typed errors of the server, beside those of `firmware.errors`."""

from firmware.errors import OtariaError, UnavailableError


class ConflictError(OtariaError):
    """A row changed under a compare-and-set; load it again and decide again."""

    def __init__(self, text: str, *, kind: str = "conflict") -> None:
        super().__init__(kind, text)


class NotFoundError(OtariaError):
    """What was named does not exist."""

    def __init__(self, text: str) -> None:
        super().__init__("not-found", text)


class DeniedError(OtariaError):
    """The caller is unknown (`unauthenticated`) or may not do this (`forbidden`)."""


class NotLeaderError(UnavailableError):
    """Another server leads, or this one can't prove that it does; ask the one that leads, or later."""

    def __init__(self, text: str) -> None:
        super().__init__("not-leader", text)


class BusyError(UnavailableError):
    """Another writer has the database's lock for longer than is waited for; whatever was to be done has no part in that."""


class StoreError(UnavailableError):
    """The artifact store could not do what was asked. `retry_after_s`: it makes sense to ask again after so many seconds."""

    def __init__(self, kind: str, text: str, *, retry_after_s: int = 10) -> None:
        super().__init__(kind, text)
        self.retry_after_s = retry_after_s
