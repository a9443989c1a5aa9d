"""What the real boots came to: a table for whoever watches, and the page docs/reference/boot-results.md for everybody else.

`python -m tests.boot.results LINES` writes that page from the lines that a run of `make test-boot` has kept.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FAILED = pytest.StashKey[bool]()
"""Whether a test has failed, for the fixtures that clean up behind it."""
PAGE = Path(__file__).parents[2] / "docs/reference/boot-results.md"
PACKAGES = "qemu-system-x86 qemu-system-arm ovmf grub-efi-amd64-bin systemd-boot-efi u-boot-qemu"
LOADERS = {"grub": "GRUB, x86-64", "systemd-boot": "systemd-boot, x86-64", "u-boot": "U-Boot, arm64"}
INTRO = """\
# Real boots: the last full result

Written by `make test-boot`. Each case is a machine in QEMU that boots Debian's Linux by the boot loader named, runs the agent
with [the shipped unit and scripts](../howto/boot.md), and is updated by a real server over a real broker. The seconds are those
of the whole case, downloads and restarts included; they say as much about the machine that it ran on.
"""


def row(name: str, title: str, outcome: str, seconds: float, why: str = "") -> dict[str, Any]:
    """One case: its boot loader, what it shows, `passed`, `failed` or `skipped`, and how long it took."""
    return {"loader": name, "case": title, "result": outcome, "seconds": round(seconds), "why": why, "at": time.time()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The cases as a Markdown table."""
    lines = ["| boot loader | case | result | seconds |", "|---|---|---|---|"]
    for one in rows:
        result = one["result"] + (f": {one['why']}" if one["why"] else "")
        lines.append(f"| {LOADERS.get(one['loader'], one['loader'])} | {one['case']} | {result} | {one['seconds']} |")
    return "\n".join(lines)


def page(rows: Sequence[dict[str, Any]], versions: str) -> str:
    """The whole page."""
    day = time.strftime("%Y-%m-%d", time.gmtime(max(one["at"] for one in rows)))
    passed = sum(one["result"] == "passed" for one in rows)
    ran, minutes = sum(one["result"] != "skipped" for one in rows), sum(one["seconds"] for one in rows) / 60
    said = f"{day}: {passed} of {ran} cases that ran passed, {minutes:.0f} minutes in all."
    return f"{INTRO}\n{said}\n\n{table(rows)}\n\n{versions}\n"


def versions() -> str:
    """What it ran on."""
    words = ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *PACKAGES.split()]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.rstrip(", ")
    return f"Debian {Path('/etc/debian_version').read_text().strip()}, {platform.machine()}: {said}."


def main() -> None:
    """Write the page, unless no machine was booted."""
    kept = Path(sys.argv[1])
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    if any(one["result"] != "skipped" for one in rows):
        PAGE.write_text(page(rows, versions()))
        print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
