"""What an error of a medium means. It is final for that try, and never retried."""

import contextlib
from collections.abc import Iterator

from device_agent.ports import Slot
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind


@contextlib.contextmanager
def storage_faults(what: str, where: Slot | str) -> Iterator[None]:
    """Turn `OSError` of the medium into `RefusedError` (`storage-fault`)."""
    try:
        yield
    except OSError as error:
        place = f"slot {where.value}" if isinstance(where, Slot) else where
        raise RefusedError(
            ReasonKind.STORAGE_FAULT,
            f"Could not {what} {place}: {error.strerror or error}. Check the storage; this try is over.",
        ) from error
