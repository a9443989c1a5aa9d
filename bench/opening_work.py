"""One campaign over a fleet on SQLite is made, once, in this process: `python -m bench.opening_work FILE TARGETS`.

Prints `seconds` from the campaign file's values to the commit (selection, strata, cohorts, assignments), and
`peak_bytes` of this process, which is what a server takes that has done nothing else yet.
"""

import asyncio
import json
import sqlite3
import sys
import time
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from bench.crowd import Device, enrol
from bench.measure import peak_bytes
from bench.reports import PRODUCT
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.service import CampaignService
from server.foundation import SystemClock
from server.planner.selection import Selection
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, Strategy
from server.ports import CampaignSpec
from server.storage import SqlDatabase

FIRST, NAME = "d-0000000", "bench"
A_SITE = 20
"""Targets with the same label `site`."""
RATE = GatePolicy(kind="rate", max_failure_rate=0.01, by=("hardware",))
STRATEGY = Strategy(
    name="opening",
    cohorts=(
        CohortPolicy(name="canary", count=20, gate=GatePolicy(min_verified=20)),
        CohortPolicy(name="wave", percent=10, gate=RATE),
        CohortPolicy(name="rest", gate=RATE),
    ),
    budgets=(BudgetPolicy(by="campaign", limit=1000), BudgetPolicy(by="site", limit=2)),
)
_NUMBERS = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ? - 1) "
_COPIES = {
    "agent": {"id": "printf('d-%07d', n)", "report_keyid": "printf('key-%07d', n)"},
    "target": {"id": "printf('d-%07d', n)", "agent": "printf('d-%07d', n)"},
    "target_label": {"target": "printf('d-%07d', n)", "value": f"printf('s-%05d', n / {A_SITE})"},
}
"""What differs in the copies of the one device that was enrolled."""


async def opened(file: Path, targets: int) -> dict[str, float]:
    """Enrol a fleet and make a campaign over it."""
    database = SqlDatabase.open(f"sqlite:///{file}")
    try:
        await database.write(lambda unit: enrol(unit, [Device(name=FIRST)]))
        _multiply(file, targets)
        clock = SystemClock()
        engine = Engine(database, clock, Director(signer=CryptoSigner.generate_ecdsa(), epoch=1))
        service = CampaignService(database, clock, engine)
        spec = CampaignSpec(name=NAME, product=PRODUCT, version="2.0.0", selection=Selection(), strategy=STRATEGY)
        began = time.perf_counter()
        view = await service.create(spec, by="bench")
        took_s = time.perf_counter() - began
    finally:
        await database.close()
    stored = sum(cohort.size for cohort in view.cohorts)
    if stored != targets:
        raise RuntimeError(f"The campaign has {stored} of {targets} targets, so the figure is worth nothing.")
    return {"seconds": took_s, "peak_bytes": peak_bytes()}


def _multiply(file: Path, targets: int) -> None:
    """Copy the first device until there are so many; what differs is made by SQLite, since enrolling takes its time."""
    with sqlite3.connect(file) as database:
        for table, values in _COPIES.items():
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            chosen = ", ".join(values.get(name, f'"{name}"') for name in names)
            own = "target" if table == "target_label" else "id"
            database.execute(
                f"{_NUMBERS} INSERT INTO {table} SELECT {chosen} FROM number, {table} WHERE {own} = ?",  # noqa: S608
                (targets, FIRST),
            )
    database.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(opened(Path(sys.argv[1]), int(sys.argv[2])))))
