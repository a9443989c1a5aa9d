"""Who may be down, by the devices' own word: kept apart from the server, and held against the budgets all the time.

Rules
- A device counts as down from the moment it follows a permit until it can say that it is up again. So what is counted here is
  what really is down, which is never more than the server counts.
- Moments of several processes are put in order of this machine's clock first: one is looked at when each has spoken since.
- A violation brings the shortest trace that shows it: for each device that is down in the group, the moment that took it down,
  and what was done to it since.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from simulator.soak.chaos import Strike
from simulator.virtual.world import Member
from simulator.wire.plan import Moment

MOST_KEPT = 20
LAST = 8
"""Moments of each device that are kept for traces."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """What must hold and did not, `at_s` after the beginning; `trace`: lines that show it."""

    kind: str
    at_s: float
    text: str
    trace: tuple[str, ...] = ()


@dataclass
class Ledger:
    """Violations: all are counted, the first of each kind are kept."""

    broken: int = 0
    kept: list[Violation] = field(default_factory=list)
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, violation: Violation) -> None:
        self.broken += 1
        self.counts[violation.kind] += 1
        if self.counts[violation.kind] <= MOST_KEPT:
            self.kept.append(violation)


class Books:
    """`site_limit` and `campaign_limit`: the budgets. `began`: monotonic seconds."""

    def __init__(
        self,
        members: Mapping[str, Member],
        ledger: Ledger,
        *,
        processes: int,
        site_limit: int,
        campaign_limit: int,
        began: float,
    ) -> None:
        self._members, self._ledger, self._began = members, ledger, began
        self.limits = {"site": site_limit, "campaign": campaign_limit}
        self._heard = dict.fromkeys(range(processes), 0.0)
        self._waiting: list[tuple[float, int, Moment]] = []
        self._count = count()
        self._down: defaultdict[str, dict[str, Moment]] = defaultdict(dict)
        self._groups: dict[str, tuple[str, ...]] = {}
        self._last: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST))
        self.most_down = {"site": 0, "campaign": 0, "fleet": 0}
        self.followed = 0

    def hear(self, number: int, at: float, moments: tuple[Moment, ...]) -> None:
        """What a process says happened up to `at`."""
        for moment in moments:
            heappush(self._waiting, (moment.at, next(self._count), moment))
        self._heard[number] = at
        known = min(self._heard.values())
        while self._waiting and self._waiting[0][0] <= known:
            self._look(heappop(self._waiting)[2])

    def struck(self, strike: Strike, at: float) -> None:
        """Note what was done to devices, for traces."""
        for name in strike.members:
            self._last[name].append(f"{at - self._began:8.1f} s  {name}: {strike.kind}")

    def trace(self, name: str) -> tuple[str, ...]:
        """The last that is known of a device."""
        return tuple(self._last[name])

    @property
    def down(self) -> int:
        return len(self._groups)

    def _look(self, moment: Moment) -> None:
        self._last[moment.member].append(self._line(moment))
        if moment.kind == "up":
            for group in self._groups.pop(moment.member, ()):
                self._down[group].pop(moment.member, None)
        elif moment.kind == "down" and moment.member not in self._groups:
            self._goes_down(moment)

    def _goes_down(self, moment: Moment) -> None:
        self.followed += 1
        groups = (f"site={self._members[moment.member].site}", f"campaign={moment.change}")
        self._groups[moment.member] = groups
        for group in groups:
            self._down[group][moment.member] = moment
            kind, down = group.split("=")[0], len(self._down[group])
            self.most_down[kind] = max(self.most_down[kind], down)
            if down > self.limits[kind]:
                self._broke(group, self.limits[kind], moment)
        self.most_down["fleet"] = max(self.most_down["fleet"], len(self._groups))

    def _broke(self, group: str, limit: int, moment: Moment) -> None:
        down = self._down[group]
        text = f"{len(down)} devices of {group} are down and {limit} may be."
        trace = [self._line(one) for one in sorted(down.values(), key=lambda one: one.at)]
        trace += [line for name in down for line in self._last[name] if "said" not in line and line not in trace]
        violation = Violation(kind="budget", at_s=moment.at - self._began, text=text, trace=tuple(trace))
        self._ledger.add(violation)

    def _line(self, moment: Moment) -> str:
        return f"{moment.at - self._began:8.1f} s  {moment.member}: {moment.kind} {moment.state} {moment.order[:12]}".rstrip()
