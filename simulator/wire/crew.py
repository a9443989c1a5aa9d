"""The processes of simulated devices, as whoever started them sees them: enrolled, started, told of faults, listened to.

A thread of its own reads what they say, so that none of them ever waits for us. All calls may come from any thread.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from firmware.errors import UnavailableError
from simulator.virtual.world import Member
from simulator.wire.plan import Plan, Pulse, Truth
from simulator.wire.worker import work

ANSWER_S = 180.0
ENROL_S = 3600.0
STOP_S = 10.0
LOOK_S = 0.5


class Crew:
    """`on_pulse` is told each pulse, on the reading thread. `targets`: by member, the id that the server gave. `joining`: who is
    being enrolled while all goes on; `refused`: by member, why it was not."""

    def __init__(self, plans: Sequence[Plan], on_pulse: Callable[[Pulse], None]) -> None:
        self.targets: dict[str, str] = {}
        self.joining: set[str] = set()
        self.refused: dict[str, str] = {}
        self._plans, self._on_pulse = plans, on_pulse
        self._place: dict[str, int] = {}
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._changed = threading.Condition()
        self._answers: dict[tuple[int, str], Any] = {}
        self._enrolling: dict[int, int] = {}
        self._ended = self._is_over = False
        context = multiprocessing.get_context("spawn")
        for place, plan in enumerate(plans):
            plan.directory.mkdir(parents=True, exist_ok=True)
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(plan, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
            self._place |= dict.fromkeys((member.id for member in plan.members), place)
        self._reader = threading.Thread(target=self._read, name="crew", daemon=True)
        self._reader.start()

    @property
    def pids(self) -> Sequence[int]:
        return [process.pid or 0 for process in self._processes]

    def enrol(self, on_enrolled: Callable[[int], None] = lambda _: None) -> None:
        """Enrol all devices; `on_enrolled` is told how many are. Raises `UnavailableError` when a process ends."""
        self._send_all("enrol")
        for place, targets in self._await("enrol", ENROL_S, on_enrolled).items():
            names = (member.id for member in self._plans[place].members)
            self.targets |= dict(zip(names, targets, strict=True))

    def start(self) -> None:
        """Give all of them power."""
        self._send_all("start")

    def cut(self, members: Sequence[str]) -> None:
        """Pull these devices' plugs for a moment."""
        self._each(members, "cut")

    def freeze(self, members: Sequence[str], for_s: float) -> None:
        """Part these devices from the network for so long."""
        self._each(members, "freeze", for_s)

    def keep_time(self, members: Sequence[str], pace: float) -> None:
        """Let these devices' clocks go so fast, of what is right."""
        self._each(members, "pace", pace)

    def wipe(self, members: Sequence[str]) -> None:
        """Flash these devices anew: they come with the factory's image, and remember nothing but who they are."""
        self._each(members, "wipe")

    def join(self, member: Member, claim: str) -> None:
        """Enrol one more device with this claim, and then give it power; returns at once."""
        with self._changed:
            place = min(range(len(self._pipes)), key=list(self._place.values()).count)
            self._place[member.id] = place
            self.joining.add(member.id)
            self._pipes[place].send(("join", member, claim))

    def leave(self, members: Sequence[str]) -> None:
        """Take these devices away for good."""
        self._each(members, "leave")

    def copy(self, members: Sequence[str]) -> None:
        """Let a copy of each of these devices come up beside it."""
        self._each(members, "copy")

    def gather(self) -> None:
        """Let all devices be there from now on."""
        self._send_all("gather")

    def truths(self) -> Mapping[str, Truth]:
        """What each device is, by itself."""
        self._send_all("truth")
        return {truth.member: truth for truths in self._await("truth", ANSWER_S).values() for truth in truths}

    def close(self) -> None:
        """End all."""
        self._is_over = True
        for pipe in self._pipes:
            try:
                pipe.send(("stop",))
            except OSError:
                continue  # it ended by itself
        for process in self._processes:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._reader.join(STOP_S)

    def _send_all(self, name: str) -> None:
        with self._changed:
            for place, pipe in enumerate(self._pipes):
                self._answers.pop((place, name), None)
                pipe.send((name,))

    def _each(self, members: Sequence[str], name: str, *given: float) -> None:
        with self._changed:
            for place, pipe in enumerate(self._pipes):
                own = [member for member in members if self._place.get(member) == place]
                if own:
                    pipe.send((name, own, *given))

    def _await(self, name: str, for_s: float, on_way: Callable[[int], None] = lambda _: None) -> Mapping[int, Any]:
        """Each process's answer of this name."""
        until = time.monotonic() + for_s
        wanted = [(place, name) for place in range(len(self._pipes))]
        with self._changed:
            while not all(key in self._answers for key in wanted):
                if self._ended:
                    raise UnavailableError(
                        "simulator-ended", "A process of simulated devices ended by itself; see its worker.log."
                    )
                if time.monotonic() > until:
                    raise UnavailableError("simulator-silent", f"Simulated devices gave no answer ({name}).")
                self._changed.wait(LOOK_S)
                on_way(sum(self._enrolling.values()))
            return {place: self._answers.pop((place, name)) for place, _ in wanted}

    def _read(self) -> None:
        places = {pipe: place for place, pipe in enumerate(self._pipes)}
        while places and not (self._is_over and not any(one.is_alive() for one in self._processes)):
            for ready in wait(list(places), LOOK_S):
                pipe = cast(Connection, ready)
                try:
                    said: tuple[Any, ...] = pipe.recv()
                except (EOFError, OSError):
                    del places[pipe]
                    self._note_end()
                    continue
                self._take(places[pipe], said)

    def _note_join(self, member: str, target: str, why: str) -> None:
        if target:
            self.targets[member] = target
        else:
            self.refused[member] = why
        self.joining.discard(member)

    def _note_end(self) -> None:
        with self._changed:
            self._ended = self._ended or not self._is_over
            self._changed.notify_all()

    def _take(self, place: int, said: tuple[Any, ...]) -> None:
        if said[0] == "pulse":
            self._on_pulse(said[1])
            return
        with self._changed:
            if said[0] == "enrolling":
                self._enrolling[place] = said[1]
            elif said[0] == "joined":
                self._note_join(*said[1:])
            else:
                self._answers[(place, said[0])] = said[1] if len(said) > 1 else None
            self._changed.notify_all()
