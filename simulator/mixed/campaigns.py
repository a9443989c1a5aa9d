"""The set of campaigns: three files, one for each kind of target, under budgets that all of them share."""

from dataclasses import dataclass

from simulator.images import PRODUCT as FIRMWARE
from simulator.mixed.hosts import PRODUCT as SERVER_OS
from simulator.mixed.sites import APPLIANCE, DEVICE, HOST

ROUTER = "router"
SHARED = """\
  cohorts:
    - {name: all, gate: {kind: share, max_failure_rate: 20%}}
  budgets:
    - {by: pair, keep: 1}
    - {by: site, limit: 2}
  patience: 150s
  trial: 120s
  horizon: 150s
  healthy: 1s
  retry: 1s
  on_failure: pause
  deltas: {wait: 0s}
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One campaign of the set. `own`: what its strategy has besides what all have."""

    name: str
    kind: str
    product: str
    own: str = ""

    def text(self, version: str) -> str:
        """Its file."""
        head = f'name: {self.name}\nproduct: {self.product}\nversion: "{version}"\nstrategy:\n  name: {self.name}\n'
        return head + SHARED + self.own


PATCHES = Part(name="patches", kind=HOST, product=SERVER_OS)
DEVICES = Part(
    name="firmware",
    kind=DEVICE,
    product=FIRMWARE,
    own="  rates:\n    - {by: site, count: 1, every: 20s}\n",
)
ROUTERS = Part(
    name="routers",
    kind=APPLIANCE,
    product=ROUTER,
    own="  order: leaves-first\n  after: [{campaign: patches, state: watching}]\n",
)
PARTS = (PATCHES, DEVICES, ROUTERS)
"""In the order in which they are started: servers first, and routers when those are through."""
