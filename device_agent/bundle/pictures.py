"""QR codes in a terminal, by `segno` (the extra `otaria[qr]`)."""

import sys

from firmware.errors import UnavailableError


def draw(parts: list[str]) -> int:
    """Draw each part of a text as a QR code with its number. Raises `UnavailableError` (`no-qr`) where segno is not installed."""
    try:
        import segno
    except ImportError as error:
        text = "Drawing QR codes needs segno: pip install 'otaria[qr]'. `--text` prints the same as text."
        raise UnavailableError("no-qr", text) from error
    for number, part in enumerate(parts, start=1):
        print(f"{number} of {len(parts)}")
        segno.make_qr(part, error="l").terminal(out=sys.stdout, compact=True)
    return 0
