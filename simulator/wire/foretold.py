"""What a real server's fleet is foretold of a campaign, before the same fleet runs it on the wire; and what became of that.

Rules
- The command that people type rehearses: against the run's own server, over the fleet that enrolled there, by what that server
  has learned of it.
- The rehearsal is in the world's own time, whatever the pace: that hastens campaigns on the wire, and no rehearsal.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from server.campaigns.rehearsal import Band, Rehearsal
from simulator.board import LabError
from simulator.lab import Lab
from simulator.virtual.outcome import CampaignOutcome
from simulator.virtual.world import Release, Start

OTARIA = ("-c", "from server.cli import main; main()")


def foretell(lab: Lab, start: Start, release: Release, file: Path) -> Rehearsal:
    """Rehearse a campaign, whose `file` is written, with the defect that its release has in the world. Raises `LabError`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(start.text)
    words = ["campaign", "rehearse", str(file), "--json", *_defect(release), *lab.access]
    done = subprocess.run([sys.executable, *OTARIA, *words], capture_output=True, check=False)
    if done.returncode:
        raise LabError("rehearsal-failed", f"{start.spec.name} was not rehearsed: {done.stderr.decode().strip()}")
    return msgspec.json.decode(done.stdout, type=Rehearsal)


def told(foretold: Mapping[str, Rehearsal], outcomes: Mapping[str, CampaignOutcome]) -> Iterator[str]:
    """Each campaign's forecast beside what it came to, in sentences."""
    for name, found in foretold.items():
        one = outcomes.get(name)
        if one is None:
            continue
        if one.stopped_s is None or not found.blast:
            said = f"verified {_band(found.verified, 100)} % of {found.targets}"
            yield f"{name} was rehearsed: {said}; on the wire {100 * one.verified / max(1, one.targets):.0f} %."
            continue
        blast = found.blast[-1]
        on = f" of {found.defect_on}" if found.defect_on else ""
        given = f" and admits {_band(blast.admitted)}" if blast.admitted else ""
        yield (
            f"{name} was rehearsed with a release that is bad on {blast.rate:.0%}{on}: it harms {_band(blast.harmed)}{given} "
            f"before it is stopped, as it was in {blast.stopped:.0%} of the runs; on the wire {one.harmed}, and {one.admitted} "
            "were admitted."
        )


def _defect(release: Release) -> Iterator[str]:
    """How the command is told of the release's defect, if that is one, and on one hardware at most."""
    if len(release.faults) == 1:
        (fault,) = release.faults
        yield from ("--defect-share", f"{fault.share:g}")
        yield from ("--defect-on", fault.hardware) if fault.hardware else ()


def _band(band: Band, times: float = 1) -> str:
    low, high = ("all" if end is None else f"{end * times:.0f}" for end in (band.p10, band.p90))
    return low if low == high else f"{low} to {high}"
