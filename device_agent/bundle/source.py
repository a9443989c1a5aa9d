"""Artifacts out of the bundle in use first, and out of the configured sources when it has none.

A bundle that gave wrong bytes for a file is left for that file until it is installed anew: a later read of the same stick would
say the same. It can delay an order and not end it, like any other source that anybody may have tampered with.
"""

from collections.abc import Iterator

from device_agent.bundle.shelf import Shelf
from device_agent.ports import Source
from firmware.bundle.read import Bundle
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind

NAME = "bundle"


class BundleFirst:
    """`Source` over a shelf and other sources."""

    def __init__(self, shelf: Shelf, others: Source) -> None:
        self._shelf, self._others = shelf, others
        self._wrong: set[tuple[str, str]] = set()
        self._asked: Bundle | None = None
        self._given = 0

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        """Chunks of the file from `offset`. See `Source.open`."""
        try:
            bundle, away = self._shelf.current(), None
        except UnavailableError as error:
            bundle, away = None, error
        if bundle is not None and (bundle.id, file.sha256) not in self._wrong:
            if bundle.length(file.sha256) is not None:
                self._asked = bundle
                return self._from(bundle, file, offset)
            away = UnavailableError(ReasonKind.UNREACHABLE, f"The bundle has no {file.path}.")
        elif bundle is not None:
            text = f"The bundle's {file.path} is not what was signed; copy the bundle again, or make another one."
            away = UnavailableError(ReasonKind.ARTIFACT_CHANGED, text)
        self._asked = None
        return self._from_others(file, offset, away)

    def allow(self, bytes_per_s: int | None) -> None:
        """Keep the others to this rate: reading a bundle takes no line. See `Source.allow`."""
        self._others.allow(bytes_per_s)

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        """Whether opening anew leads to somebody else. See `Source.again`."""
        if self._asked is None:
            return self._others.again(file, wrong=wrong)
        if wrong:
            self._wrong.add((self._asked.id, file.sha256))
        return wrong

    def forgive(self) -> None:
        """A bundle was installed: whatever it gave before, it is asked."""
        self._wrong.clear()

    def evidence(self) -> dict[str, object]:
        """See `Source.evidence`."""
        evidence = self._others.evidence()
        fetched = evidence.get("fetched_bytes")
        from_others = fetched if isinstance(fetched, dict) else {}
        own: dict[str, object] = {"fetched_bytes": {**from_others, NAME: self._given}} if self._given else {}
        return evidence | own

    def _from(self, bundle: Bundle, file: FileRef, offset: int) -> Iterator[bytes]:
        try:
            for piece in bundle.artifact(file.sha256, offset):
                self._given += len(piece)
                yield piece
        except (RefusedError, UnavailableError) as error:  # pulled out, or another stick: it is looked at anew
            self._shelf.forget_opened()
            raise UnavailableError(ReasonKind.UNREACHABLE, error.text) from error

    def _from_others(self, file: FileRef, offset: int, away: UnavailableError | None) -> Iterator[bytes]:
        """When nobody else has it either, what is wrong with the bundle is what there is to say."""
        try:
            yield from self._others.open(file, offset=offset)
        except UnavailableError as error:
            if away is None or error.kind != ReasonKind.UNREACHABLE:
                raise
            raise away from error
