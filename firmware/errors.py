"""Errors of everything that is parsed or verified.

Two families by what the caller can do: `RefusedError` means the bytes are wrong and asking again for the same bytes is
useless; `UnavailableError` means they could not be had now. Every error carries a stable machine `kind` and a human
sentence that says what to do.
"""


class OtariaError(Exception):
    """Base of all typed errors: `kind` is stable and machine readable, `text` a sentence for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return self.text


class RefusedError(OtariaError):
    """The bytes are malformed, unsigned, out of bounds or not meant for us; trying again with them changes nothing."""


class UnavailableError(OtariaError):
    """Something could not be reached or read now; trying again later may work."""
