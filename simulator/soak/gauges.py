"""What is measured while a soak runs: memory, files and processor time of server and broker, and the simulator's own pulse."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from msgspec import Struct

from simulator.wire.hub import files, rss_bytes
from simulator.wire.plan import Pulse

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 5.0
"""How often is looked."""
LATE_S = 2.0
"""A lag beyond which the simulated devices were not those of the world."""
BUSY = 0.95
SETTLED_S = 120.0
"""How old a process must be before its memory should be flat."""
LEAST_SAMPLES = 20
"""With fewer of a settled process nobody can tell whether it grows."""
GROWTH, GROWTH_MIB = 1.3, 64.0
FILES_MORE = 60


class Sample(Struct, frozen=True, kw_only=True):
    """A look at all of it. Processor time in processors; `pid` of the server tells its lives apart."""

    at_s: float
    connected: int
    down: int
    states: dict[str, int]
    lag_s: float
    busy: float
    simulator_mib: float
    simulator_cpu: float
    pid: int
    server_mib: float
    server_files: int
    server_cpu: float
    broker_mib: float
    broker_files: int
    stored: int
    broker_pid: int = 0


class Course(Struct, frozen=True, kw_only=True):
    """What a process took early and late in its longest life, of `seconds`, once it had settled: memory in MiB, open files."""

    who: str
    seconds: float
    mib: tuple[float, float]
    files: tuple[float, float]

    def growth(self) -> Sequence[str]:
        """What grew, in sentences."""
        said = []
        (before, after), (opened, open_now) = self.mib, self.files
        if after > before * GROWTH and after > before + GROWTH_MIB:
            said.append(f"The {self.who}'s memory grew from {before:.0f} to {after:.0f} MiB in one life.")
        if open_now > opened + FILES_MORE:
            said.append(f"The {self.who}'s open files grew from {opened:.0f} to {open_now:.0f} in one life.")
        return said

    @property
    def text(self) -> str:
        return (
            f"The {self.who} took {self.mib[0]:.0f} MiB early and {self.mib[1]:.0f} MiB late in its longest life of "
            f"{self.seconds / 60:.0f} min, and had {self.files[0]:.0f} and {self.files[1]:.0f} files open."
        )


@dataclass
class Gauges:
    """`pulses`: the last of each process."""

    began: float
    samples: list[Sample] = field(default_factory=list)
    pulses: dict[int, Pulse] = field(default_factory=dict)
    most_lag_s: float = 0.0
    heard: int = 0
    late: int = 0
    busy: int = 0
    _spent: dict[int, tuple[float, float]] = field(default_factory=dict)

    def hear(self, pulse: Pulse) -> None:
        """Take in one pulse."""
        self.pulses[pulse.number] = pulse
        self.heard += 1
        self.late += pulse.lag_s > LATE_S
        self.busy += pulse.busy > BUSY
        self.most_lag_s = max(self.most_lag_s, pulse.lag_s)

    def sample(self, *, server: int, broker: int, down: int, stored: int) -> Sample:
        """Look now."""
        pulses = list(self.pulses.values())
        found = Sample(
            at_s=time.monotonic() - self.began,
            connected=sum(one.connected for one in pulses),
            down=down,
            states=dict(sum((Counter(one.states) for one in pulses), Counter())),
            lag_s=max((one.lag_s for one in pulses), default=0.0),
            busy=max((one.busy for one in pulses), default=0.0),
            simulator_mib=sum(one.rss_bytes for one in pulses) / MIB,
            simulator_cpu=sum(one.cpu for one in pulses),
            pid=server,
            server_mib=rss_bytes(server) / MIB if server else 0.0,
            server_files=files(server) if server else 0,
            server_cpu=self._cpu(server),
            broker_mib=rss_bytes(broker) / MIB if broker else 0.0,
            broker_files=files(broker) if broker else 0,
            stored=stored,
            broker_pid=broker,
        )
        self.samples.append(found)
        return found

    @property
    def connected(self) -> int:
        """Devices that are, by the last pulse of each process."""
        return sum(one.connected for one in list(self.pulses.values()))

    @property
    def devices(self) -> int:
        return sum(one.devices for one in self.pulses.values())

    def courses(self) -> Sequence[Course]:
        """How server and broker went; one whose lives were all too short to tell is left out."""
        seen = {
            "server": [(one.pid, one.at_s, one.server_mib, one.server_files) for one in self.samples],
            "broker": [(one.broker_pid, one.at_s, one.broker_mib, one.broker_files) for one in self.samples],
        }
        found = (_course(who, [look for look in looks if look[0]]) for who, looks in seen.items())
        return [one for one in found if one is not None]

    def growth(self) -> Sequence[str]:
        """What grew, in sentences."""
        return [text for one in self.courses() for text in one.growth()]

    def flatness(self) -> Sequence[str]:
        """What server and broker took, or that they didn't live long enough to tell, in sentences."""
        told = {one.who: one.text for one in self.courses()}
        least_s = SETTLED_S + LEAST_SAMPLES * SAMPLE_S
        short = "No life of the {} reached the {:.0f} s that it takes to judge its memory and files."
        return [told.get(who) or short.format(who, least_s) for who in ("server", "broker")]

    def judgement(self) -> Sequence[str]:
        """Whether the simulator was the bottleneck, in sentences."""
        if not self.heard:
            return ["The simulated devices said nothing."]
        said = []
        if self.late:
            said.append(
                f"The simulator could not keep real time in {self.late / self.heard:.1%} of its seconds: something due waited "
                f"up to {self.most_lag_s:.1f} s. Devices were slower than the world says."
            )
        if self.busy > self.heard * 0.05:
            said.append(
                f"The simulator was the bottleneck in {self.busy / self.heard:.0%} of its seconds: its thread had no rest."
            )
        return said or ["The simulator kept real time, and had rest: it was not the bottleneck."]

    def _cpu(self, pid: int) -> float:
        """Processors that a process used since it was asked about last."""
        now, spent = time.monotonic(), cpu_s(pid)
        at, before = self._spent.get(pid, (now, spent))
        self._spent[pid] = (now, spent)
        return (spent - before) / (now - at) if now > at else 0.0


_Look = tuple[int, float, float, int]
"""Process id, when, MiB, open files."""


def _course(who: str, looks: Sequence[_Look]) -> Course | None:
    lives: dict[int, list[_Look]] = {}
    for one in looks:
        lives.setdefault(one[0], []).append(one)
    longest = max(lives.values(), key=lambda life: life[-1][1] - life[0][1], default=[])
    settled = [one for one in longest if one[1] >= longest[0][1] + SETTLED_S]
    if len(settled) < LEAST_SAMPLES:
        return None
    fifth = len(settled) // 5
    first, last = settled[:fifth], settled[-fifth:]
    return Course(
        who=who,
        seconds=longest[-1][1] - longest[0][1],
        mib=(median(one[2] for one in first), median(one[2] for one in last)),
        files=(median(one[3] for one in first), median(one[3] for one in last)),
    )


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used; 0 when it is gone."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after[11]) + int(after[12])) / TICKS
    except (OSError, IndexError):
        return 0.0
