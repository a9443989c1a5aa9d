"""What devices that answer from chances take for each step, fitted by exact runs: `python -m simulator.exact.fit` prints the
table that `simulator/virtual/fitted.py` holds.

Two small worlds are run with real agents: one whose links lose nothing, for how long steps take, and one that loses a third, for
how long it takes until what was lost is said again. All is read from their traces.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import click
import msgspec

from simulator.exact.run import SERVER_S
from simulator.exact.telling import run_exactly
from simulator.exact.trace import Line
from simulator.virtual.fitted import Fitted
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

LATENCY_S, HEALTH_S, BOOT_S, LOSS = 0.2, 60.0, 45.0, 0.3
IMAGE_BYTES, BYTES_PER_S = 1_000_000, 1_000_000
LATE_S = 2.0
"""What takes longer to arrive was lost on its way, once at least."""
WORLD = """
name: fit-{name}
days: 3
seed: 11
fleet:
  - {{name: lamp, devices: {devices}, hardware: lamp-r1, sites: 4, link: {{mbit: 8, latency: 0.2, loss: {loss}}}, health: 60s}}
releases:
  - {{version: "2.0.0", image: 1 MB, defects: [{defects}]}}
campaigns:
  - file: |
      name: fit
      product: lamp
      version: "2.0.0"
      strategy:
        name: fit
        cohorts: [{{name: all, gate: {{kind: share, max_failure_rate: 0.99}}}}]
        budgets: [{{by: campaign, limit: {devices}}}]
        patience: 2d
        max_attempts: 1
"""
DEFECTS = "{kind: fails-boot, share: 33%}, {kind: fails-health, share: 50%}"


def world(name: str, *, devices: int, loss: float = 0.0, defects: str = "") -> World:
    """A world to fit from: everybody there, nobody told to wait."""
    return parse_world(WORLD.format(name=name, devices=devices, loss=loss, defects=defects), f"fit-{name}.yaml")


def fit(devices: int = 48) -> Fitted:
    """Run both worlds and read what steps took."""
    quiet, lossy = (
        _lives(world("quiet", devices=devices, defects=DEFECTS)),
        _lives(world("lossy", devices=devices, loss=LOSS)),
    )
    down = [took for one in quiet for took in _between(one, "down activating", "said trial")]
    unbooted = [one for one in quiet if not _times(one, "said trial")]
    back = [took for one in unbooted for took in _between(one, "down activating", "up fell_back")]
    unwell = [took for one in quiet for took in _between(one, "said trial", "up fell_back")]
    commits = [took - HEALTH_S for one in quiet for took in _between(one, "said trial", "up committed")]
    staged = [
        took - IMAGE_BYTES / BYTES_PER_S - LATENCY_S for one in quiet for took in _between(one, "order", "said staged")
    ]
    late = [delay for one in lossy for delay in _delays(one) if delay > LATE_S]
    asks = [second - first for one in lossy for first, second in _repeats(_times(one, "ask"))]
    return Fitted(
        boots=_rounded(fmean(down) / BOOT_S),
        boots_back=_rounded(fmean(back) / BOOT_S),
        boots_unwell=_rounded(fmean(unwell) / BOOT_S),
        commit_s=_rounded(fmean(commits)),
        staged_s=_rounded(fmean(staged)),
        resend_s=_rounded(fmean(late) * (1 - LOSS)),
        ask_again_s=_rounded(fmean(asks) * (1 - LOSS)),
    )


def _lives(made: World) -> Sequence[Sequence[Line]]:
    """What each device did and what was said to and of it, in order."""
    with tempfile.TemporaryDirectory(prefix="otaria-fit-") as directory:
        out = Path(directory) / "trace.jsonl"
        run_exactly(made, out=out)
        lines = [msgspec.json.decode(text, type=Line) for text in out.read_bytes().splitlines()[1:]]
    found: defaultdict[str, list[Line]] = defaultdict(list)
    names = {one.id for one in made.members(made.seed)}
    for line in lines:
        for name in names & {line.who, *line.what.rstrip(":").replace(":", " ").split()}:
            found[name].append(line)
    return [found[name] for name in sorted(names)]


def _times(life: Sequence[Line], what: str) -> Sequence[float]:
    """When this happened; `what`: how it begins."""
    return [line.t for line in life if line.what == what or line.what.startswith(f"{what} ")]


def _between(life: Sequence[Line], first: str, then: str) -> Iterator[float]:
    """From the first of this to the first of that, where both happened."""
    begun, ended = _times(life, first), _times(life, then)
    if begun and ended:
        yield ended[0] - begun[0]


def _delays(life: Sequence[Line]) -> Iterator[float]:
    """How much later than by a good link each thing that a device said was taken in. The first report is its inventory."""
    said = [line.t for line in life if line.what.startswith(("said ", "down ", "up "))]
    heard = [line.t for line in life if line.who == "planner" and line.what.startswith("Reported ")][1:]
    for at, taken in zip(said, heard, strict=False):
        yield taken - at - LATENCY_S - SERVER_S


def _repeats(times: Sequence[float]) -> Iterator[tuple[float, float]]:
    return pairwise(times)


def _rounded(value: float) -> float:
    return round(value, 2)


def table(found: Fitted) -> Mapping[str, float]:
    """Its values by name."""
    return {name: float(value) for name, value in msgspec.structs.asdict(found).items()}


@click.command()
@click.option("--devices", default=48, show_default=True, type=click.IntRange(8, 1000))
def main(devices: int) -> None:
    """Fit, and print what `simulator/virtual/fitted.py` should hold."""
    for name, value in table(fit(devices)).items():
        click.echo(f"    {name}={value:g},")


if __name__ == "__main__":
    main()
