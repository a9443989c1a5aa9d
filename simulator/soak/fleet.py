"""The fleet of a soak, the releases that its campaigns bring, and the campaigns: all by the seed."""

from collections.abc import Sequence

from simulator.virtual.device import Link
from simulator.virtual.world import Fault, Habit, Lot, Member, Release, World

PRODUCT = "soak"
BEGINS = 1772409600.0
SITE_DEVICES = 20
SITE_LIMIT = 4
MANY = 2000
"""From so many devices on a site may have two of its devices down: else hardly any would ever have as many down as it may; with
one, a single device that stays silent holds up its site, and so its cohort."""
CAMPAIGN_LIMIT = 60
"""As many as the pace below brings down at once, so that the budget binds."""
ROUNDS = 500
RESTARTS_PER_S, DOWNLOADS = 12, 300
"""A campaign's pace: what a server on two processors handles beside 10,000 devices that are simulated there. An update is a
dozen signed reports; faster, they would wait for each other beyond the horizon, and count as failures."""
BAD = (
    Fault(kind="fails-health", share=0.4),
    Fault(kind="fails-boot", share=0.4),
    Fault(kind="crashes", share=0.5, after_s=10.0),
)
"""What every third release has, from the second on, in turn. None bricks: that nothing is bricked is what a soak shows."""

DOWNLOAD_S = 60
"""Far longer than a download takes here: who went away in the middle of one holds no gate."""


def world(devices: int, seed: int) -> World:
    """Four in five on a good link that never leave, the others on a bad one and there nine tenths of the time."""
    bad = max(1, devices // 5) if devices > 1 else 0
    shares = {"good": devices - bad, "bad": bad}
    return World(
        name="soak",
        about="a fleet under campaigns without end",
        seed=seed,
        begins=BEGINS,
        days=400,
        lots=tuple(_lot(name, number) for name, number in shares.items() if number),
        releases=tuple(release(number) for number in range(ROUNDS)),
        campaigns=(),
    )


def members(devices: int, seed: int) -> Sequence[Member]:
    """The devices."""
    return list(world(devices, seed).members(seed))


def release(number: int) -> Release:
    """The one of this round."""
    faults = (BAD[number // 3 % len(BAD)],) if number % 3 == 1 else ()
    return Release(version=f"1.{number + 1}.0", size_bytes=400_000, faults=faults)


def is_bad(number: int) -> bool:
    """Whether the release of this round harms devices."""
    return bool(release(number).faults)


def site_limit(devices: int) -> int:
    """How many devices of a site may be down at a time."""
    return 2 if devices >= MANY else min(SITE_LIMIT, max(1, devices // 4))


def campaign_limit(devices: int) -> int:
    """How many of a campaign may be down at a time."""
    return max(2, min(CAMPAIGN_LIMIT, devices // 5))


def campaign(number: int, devices: int) -> str:
    """The campaign file of a round."""
    canary, trial = max(2, min(60, devices // 20)), 25 + min(devices // 200, 50)
    return f"""
name: round-{number}
product: {PRODUCT}
version: "{release(number).version}"
strategy:
  name: soak
  cohorts:
    - {{name: canary, count: {canary}, gate: {{kind: share, max_failure_rate: 25%}}}}
    - {{name: wave, percent: 30, gate: {{kind: share, max_failure_rate: 8%}}}}
    - {{name: rest, gate: {{kind: share, max_failure_rate: 8%}}}}
  budgets:
    - {{by: site, limit: {site_limit(devices)}}}
    - {{by: campaign, limit: {campaign_limit(devices)}}}
  rates: [{{count: {RESTARTS_PER_S}, every: 1s}}]
  downloads: [{{by: campaign, limit: {DOWNLOADS}}}]
  patience: {30 + devices // 100}s
  trial: {trial}s
  horizon: {trial + 10}s
  healthy: 5s
  retry: {5 + devices // 400}s
  timeouts: {{download: {DOWNLOAD_S}s}}
  max_attempts: 3
  late_max_failures: {max(1, devices // 100)}
  on_failure: abort
"""


def _lot(name: str, devices: int) -> Lot:
    link = Link(latency_s=0.0) if name == "good" else Link(latency_s=0.2, loss=0.03, duplication=0.05, bytes_per_s=2e5)
    return Lot(
        name=name,
        devices=devices,
        hardware=f"soak-{name}",
        sites=max(1, devices // SITE_DEVICES),
        habit=Habit() if name == "good" else Habit(share=0.9, spell_h=1),
        link=link,
        flash_faults=0.002,
        power_cuts=0.004,
        health_s=2.0,
    )
