"""How demos tell what happens: lines with the time, and campaigns and boards in a few words."""

import json
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from typing import Any

from simulator.board import Board

ENDED = ("completed", "watching", "paused", "aborted", "rolled_back")


class Narrator:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        """One line."""
        print(f"[{self.seconds:5.1f} s] {text}", flush=True)

    def title(self, text: str) -> None:
        """The heading of a chapter."""
        print(f"\n{text}", flush=True)


def program_version(board: Board) -> str | None:
    """What the program in a board's active slot says that it is; None when it doesn't answer."""
    status = json.loads((board.directory / "run" / "status.json").read_bytes())
    with suppress(OSError, ValueError):
        url = f"http://127.0.0.1:{status['program_port']}/health"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(json.load(answer)["version"])
    return None


def line_of(view: dict[str, Any]) -> str:
    """Where a campaign stands, in a line."""
    parts = []
    for cohort in view["cohorts"]:
        counts = " ".join(f"{number} {state}" for state, number in sorted(cohort["counts"].items()))
        if cohort["size"] and cohort["state"] != "closed":
            parts.append(
                f"{cohort['name']}: {counts}" + (f" -> {cohort['state']}" if cohort["state"] != "open" else "")
            )
    return " | ".join(parts) or view["state"]


def counts_of(view: dict[str, Any]) -> Counter[str]:
    """Its targets by state."""
    total: Counter[str] = Counter()
    for cohort in view["cohorts"]:
        total.update(cohort["counts"])
    return total


def in_flight(view: dict[str, Any]) -> bool:
    """Whether somebody of it is under way."""
    return any(counts_of(view)[state] for state in ("asking", "activating", "trial", "committed"))
