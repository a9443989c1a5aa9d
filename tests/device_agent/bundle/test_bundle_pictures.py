"""What is drawn in the terminal can be read by a camera: it is read here by a library for that, and holds the reports."""

import numpy as np
import pytest
import zxingcpp

from device_agent.bundle.pictures import draw
from firmware.bundle.evidence import from_text, to_text
from tests.firmware.bundle.test_bundle_evidence import reports

LIGHT = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
"""A character is two modules, one above the other."""
MODULE_PIXELS = 4
TERMINAL_COLUMNS = 80


def photographed(lines: list[str]) -> str:
    """The text of one drawn code."""
    rows = [[LIGHT[one][half] for one in line] for line in lines for half in (0, 1)]
    picture = np.kron(np.array(rows, dtype=np.uint8) * 255, np.ones((MODULE_PIXELS, MODULE_PIXELS), dtype=np.uint8))
    [code] = zxingcpp.read_barcodes(picture, formats=zxingcpp.BarcodeFormat.QRCode)
    return str(code.text)


@pytest.mark.parametrize("count", [1, 5])
def test_the_codes_on_the_screen_hold_the_reports(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    parts = to_text(reports(count))
    assert draw(parts) == 0
    drawn = capsys.readouterr().out
    assert max(len(line) for line in drawn.splitlines()) <= TERMINAL_COLUMNS
    texts = []
    for number in range(1, len(parts) + 1):
        _, drawn = drawn.split(f"{number} of {len(parts)}\n")
        texts.append(photographed(drawn.split(f"{number + 1} of {len(parts)}\n")[0].splitlines()))
    assert texts == parts
    assert len(from_text("\n".join(texts))) == count
