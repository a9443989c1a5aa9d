"""Faults of package changes as a table: which maintainer script, of which package and side, does what, and when."""

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from device_agent.effects import FileEffects
from device_agent.packages.ladder import Phase
from device_agent.packages.store import LEDGER_FILE
from device_agent.ports import Slot
from simulator.debs import Deb, build_deb
from tests.device_agent.packages.bed import Bed

OLD = {"alpha": "1.5", "beta": "1.5", "conf": "1.0", "gamma": "1.0"}
NEW = OLD | {"alpha": "3.0", "beta": "3.0", "extra": "3.0"}
"""The two sets that a prepared host may end at."""
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
ONCE = '[ ! -e "{once}" ] || exit 0; touch "{once}"'
HOWS = {
    "fails": "exit 3",
    "fails-once": f"{ONCE}; exit 3",
    "kills-dpkg": f"{ONCE}; kill -9 $PPID; sleep 1",
    "cuts-power": f"{ONCE}; touch {{cut}}; kill -9 $(cut -d -f4 /proc/$PPID/stat) $PPID; sleep 1",
}
"""What a script does. `kills-dpkg`: dpkg alone; `cuts-power`: dpkg and apt, and the agent before it can note anything."""


class PowerCut(BaseException):
    """The agent ends here. Not an `Exception`: nothing may catch it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`side`: the package that is left (`old`) or taken up (`new`). `moment`: on the way there, or on the way back."""

    package: str
    side: str
    script: str
    how: str
    moment: str

    @property
    def name(self) -> str:
        return f"{self.moment}-{self.side}-{self.package}-{self.script}-{self.how}"

    @property
    def may_get_stuck(self) -> bool:
        """Whether the package to go back to can't be installed, ever, or the one to leave never lets go: dpkg has no force for
        that, unless the old version brings a script that takes over."""
        never_lets_go = self.moment == "back" and self.script in ("prerm", "postrm")
        return self.how == "fails" and (self.side == "old" or never_lets_go)


def faults() -> Iterator[Fault]:
    """All of them."""
    for moment, script, how in itertools.product(("there", "back"), SCRIPTS, HOWS):
        for package, side in (("alpha", "old"), ("alpha", "new"), ("beta", "old"), ("beta", "new"), ("extra", "new")):
            yield Fault(package=package, side=side, script=script, how=how, moment=moment)


def faulty_deb(bed: Bed, fault: Fault, name: str, version: str) -> Deb:
    """A package whose script does it as soon as the bed is armed."""
    paths = {"once": str(bed.folder / "once"), "cut": str(bed.folder / "cut")}
    body = f'[ -e "{bed.folder / "armed"}" ] || exit 0\n{HOWS[fault.how].format(**paths)}'
    fields = f"Depends: alpha (>= {version})\n" if name == "beta" else ""
    return build_deb(bed.folder, name, version, fields=fields, scripts={fault.script: body})


def prepare(bed: Bed, fault: Fault | None) -> None:
    """A host at 1.5, with a staged set at 3.0 in which one package's script is at fault."""
    debs = []
    for name, version in (("alpha", "1.5"), ("beta", "1.5"), ("alpha", "3.0"), ("beta", "3.0"), ("extra", "3.0")):
        side = "old" if version == "1.5" else "new"
        if fault is not None and (fault.package, fault.side) == (name, side):
            debs.append(faulty_deb(bed, fault, name, version))
        else:
            fields = f"Depends: alpha (>= {version})\n" if name == "beta" else ""
            debs.append(build_deb(bed.folder, name, version, fields=fields))
    bed.offer(*debs)
    old = [str(one.path) for one in debs if one.version == "1.5"]
    subprocess.run(
        ["dpkg", f"--root={bed.root}", "--force-script-chrootless", "--force-unsafe-io", "--install", *old],
        check=True,
        capture_output=True,
    )
    bed.stage(bed.set_of("alpha=3.0", "beta=3.0", "extra=3.0", install=["extra"]))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)


class CutEffects(FileEffects):
    """Ends the agent before or after the ledger is written for the `at`th time, or as soon as the power was cut by a script."""

    def __init__(self, marker: Path, *, at: int | None = None, after: bool = False) -> None:
        super().__init__()
        self._marker, self._at, self._after = marker, at, after
        self.written = 0

    def replace(self, path: Path, data: bytes) -> None:
        if path.name == LEDGER_FILE:
            self.written += 1
            if self._marker.exists():
                self._marker.unlink()
                raise PowerCut
        cut = path.name == LEDGER_FILE and self.written == self._at
        if cut and not self._after:
            raise PowerCut
        super().replace(path, data)
        if cut:
            raise PowerCut


def carry_on(bed: Bed) -> None:
    """What a new process does after a cut: as often as it takes."""
    for _ in range(4):
        bed.open()
        try:
            bed.boot.resume()
        except PowerCut:
            continue
        return
    raise AssertionError("the transaction never comes to rest")


def end_of(bed: Bed) -> str:
    """How it ended by the agent's own account: `new`, `old`, `stuck`."""
    ledger = bed.transactions.ledger
    if ledger.transaction is not None:
        return {Phase.TRIAL: "new", Phase.ARMED: "armed"}.get(ledger.transaction.phase, ledger.transaction.phase.value)
    assert ledger.ended is not None
    return {Phase.FELL_BACK: "old", Phase.STUCK: "stuck", Phase.COMMITTED: "new"}[ledger.ended.phase]
