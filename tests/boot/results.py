"""What the real boots came to: a table for whoever watches, and the page docs/reference/boot-results.md for everybody else.

`python -m tests.boot.results LINES…` writes that page from the lines that a run of `make test-boot` has kept, or several runs
that had different cases chosen: of each case, the last run counts. A case that was not chosen is a row as well.
"""

import functools
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
NOT_RUN = "not run"
INTRO = """\
# Real boots: the last result

Written by `make test-boot`. Each case is a machine in QEMU that boots Debian's Linux by the boot loader named, runs the agent
with [the shipped unit and scripts](../howto/boot.md), and is updated by a real server over a real broker. The seconds are those
of the whole case, downloads and restarts included; they say as much about the machine that it ran on.
"""


def row(name: str, title: str, outcome: str, seconds: float, why: str = "") -> dict[str, Any]:
    """One case: its boot loader, what it shows, `passed`, `failed`, `skipped` or `not run`, and how long it took."""
    about = {"loader": name, "case": title, "result": outcome, "seconds": round(seconds), "why": why}
    return {**about, "at": time.time(), "tree": tree()}


def latest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a case, boot loader by boot loader: the last that ran, or else that it did not."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in rows:
        key = one["loader"], one["case"]
        if key not in found or one["result"] != NOT_RUN:
            found[key] = one
    order = [*LOADERS]
    return sorted(found.values(), key=lambda one: order.index(one["loader"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The cases as a Markdown table."""
    lines = ["| boot loader | case | result | seconds | ended (UTC) | tree |", "|---|---|---|---|---|---|"]
    for one in rows:
        result = one["result"] + (f": {one['why']}" if one["why"] else "")
        ended = time.strftime("%m-%d %H:%M", time.gmtime(one["at"]))
        when = f"{one['seconds']} | {ended} | {one['tree']}" if _ran(one) else "- | - | -"
        lines.append(f"| {LOADERS.get(one['loader'], one['loader'])} | {one['case']} | {result} | {when} |")
    return "\n".join(lines)


def page(rows: Sequence[dict[str, Any]], versions: str) -> str:
    """The whole page."""
    ran = [one for one in rows if _ran(one)]
    passed, minutes = sum(one["result"] == "passed" for one in ran), sum(one["seconds"] for one in ran) / 60
    whole = "All cases ran" if len(ran) == len(rows) else f"A partial run: {len(ran)} of {len(rows)} cases ran"
    said = f"{_when(ran)}: {passed} of {len(ran)} cases that ran passed, {minutes:.0f} minutes in all. {whole}."
    return f"{INTRO}\n{said}\n\n{table(rows)}\n\n{versions}\n"


def _ran(one: dict[str, Any]) -> bool:
    return one["result"] not in {"skipped", NOT_RUN}


def _when(rows: Sequence[dict[str, Any]]) -> str:
    """From the end of the first case to that of the last, in UTC."""
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(edge(one["at"] for one in rows))) for edge in (min, max))
    return f"{first} to {last} UTC"


def versions() -> str:
    """What it ran on."""
    words = ["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *PACKAGES.split()]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.rstrip(", ")
    return f"Debian {Path('/etc/debian_version').read_text().strip()}, {platform.machine()}: {said}."


@functools.cache
def tree() -> str:
    """The commit that is here, as git names it; empty where git knows none."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    said = subprocess.run(words, capture_output=True, text=True, check=False, cwd=PAGE.parent)
    return said.stdout.strip()


def main() -> None:
    """Write the page, unless no machine was booted."""
    kept = [Path(name) for name in sys.argv[1:] if Path(name).exists()]
    rows = latest([json.loads(line) for path in kept for line in path.read_text().splitlines()])
    if any(_ran(one) for one in rows):
        PAGE.write_text(page(rows, versions()))
        print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
