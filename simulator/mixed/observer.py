"""Somebody who believes neither planner nor server: asks each router, server and device itself whether it answers, all the while.

Rules
- A router is up when its SSH server greets; a server or a device when its own program says 200.
- A pair is broken when no member of it was up in one round.
- A path is broken when somebody was down while somebody it is reached through was down, too: then nobody could have repaired it.
- Nothing is believed of an observer that saw nothing: all members of pairs must have been seen down.
"""

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

ROUND_S = 0.2
ANSWER_S = 10.0
Probe = Callable[[], bool]


@dataclass(kw_only=True)
class Account:
    """What was seen. `pairs`: members by pair; `paths`: whom each is reached through.

    `lowest`: the fewest of each pair that were up at once; `fell`: how often each went down; `broken_paths`: who was down, and
    whom above it, at once."""

    pairs: Mapping[str, Iterable[str]]
    paths: Mapping[str, Iterable[str]]
    rounds: int = 0
    lowest: dict[str, int] = field(default_factory=dict)
    fell: Counter[str] = field(default_factory=Counter)
    broken_paths: set[tuple[str, str]] = field(default_factory=set)
    _up: dict[str, bool] = field(default_factory=dict)

    def see(self, up: Mapping[str, bool]) -> list[str]:
        """Take in one round; what changed, as sentences."""
        self.rounds += 1
        for pair, members in self.pairs.items():
            number = sum(up[name] for name in members)
            self.lowest[pair] = min(number, self.lowest.get(pair, number))
        down = {name for name, is_up in up.items() if not is_up}
        self.broken_paths |= {(name, above) for name in down for above in self.paths[name] if above in down}
        changed = [name for name, is_up in up.items() if self._up.get(name, True) is not is_up]
        self.fell.update(name for name in changed if not up[name])
        self._up = dict(up)
        return [f"{name} {'is up again' if up[name] else 'went down'}" for name in changed]

    @property
    def broken_pairs(self) -> list[str]:
        """Pairs of which nobody was up."""
        return sorted(pair for pair, number in self.lowest.items() if number == 0)


class Observer:
    """Asks everybody in rounds on threads of its own, until it is closed; `on_change` is told each sentence."""

    def __init__(self, probes: Mapping[str, Probe], account: Account, on_change: Callable[[str], None]) -> None:
        self._probes, self._account, self._on_change = probes, account, on_change
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(len(probes) + 1, thread_name_prefix="observer")
        self._watching = self._pool.submit(self._watch)

    def close(self) -> None:
        """End it. Raises what ended it before, if anything did: then it has not seen all."""
        self._over.set()
        self._pool.shutdown()
        self._watching.result()

    def _watch(self) -> None:
        while not self._over.wait(ROUND_S):
            asked = [self._pool.submit(probe) for probe in self._probes.values()]
            up = {name: answer.result() for name, answer in zip(self._probes, asked, strict=True)}
            for sentence in self._account.see(up):
                self._on_change(sentence)


def greets(port: Callable[[], int], said: bytes = b"", wanted: bytes = b"SSH-2.0-") -> bool:
    """Whether who listens at a loopback port says what is wanted first, once it was told what is to be `said`."""
    with contextlib.suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", port()), ANSWER_S) as line:
        line.sendall(said)
        heard = b""
        while len(heard) < len(wanted) and (more := line.recv(64)):
            heard += more
        return heard.startswith(wanted)
    return False


def answers_well(port: Callable[[], int], path: str) -> bool:
    """Whether a program answers a GET with 200."""
    return greets(port, f"GET {path} HTTP/1.0\r\n\r\n".encode(), b"HTTP/1.0 200")
