"""Boot entries of systemd-boot that carry the agent's ledger: `otaria-SLOT-NUMBER+LEFT-DONE.conf`. Pure.

The Boot Loader Specification's counters are in the name, and systemd-boot renames the file at every boot. What it does not
keep is in a comment that it skips. No name is ever used twice: a change writes the next NUMBER and then removes the older
file, so that a rename or a removal that FAT has done by half leaves a whole entry of the slot, and the highest number is the
newest word.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from device_agent.boot.ledger import Phase
from device_agent.ports import Slot

SORT_KEY = "otaria"
RESCUE_KEY = "otaria-rescue"
RESCUE_MARK = "# otaria-rescue "
"""In the last line, so that a file that has it is whole."""
MAX_ENTRY_BYTES = 8192
_NAME = re.compile(r"otaria-([ab])-([0-9]{1,9})\+([0-9]{1,3})(?:-([0-9]{1,3}))?\.conf")
_FACTS = re.compile(r"^# otaria((?: [a-z]+=[A-Za-z0-9_-]{0,64})+)$", re.MULTILINE)
_CANARY = re.compile(r"^options .*\botaria\.canary=([A-Za-z0-9_-]+)", re.MULTILINE)
_OURS = ("title", "sort-key", "version", "machine-id")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One slot's entry. `left`, `done`: the boot loader's counters; `total`: what `left` began with. `ended` and `cause` tell of
    the other slot's last trial, once its entry is gone; in a trial's own entry `cause` is why it was given up. `returned`
    names the boot whose attempt was given back last."""

    slot: Slot
    number: int
    left: int
    done: int = 0
    version: int = 1
    phase: Phase = Phase.COMMITTED
    total: int = 0
    trial_id: str = ""
    ended: str = ""
    cause: str = ""
    canary: str = ""
    returned: str = ""

    @property
    def name(self) -> str:
        counters = f"+{self.left}-{self.done}" if self.done else f"+{self.left}"
        return f"otaria-{self.slot.value.lower()}-{self.number}{counters}.conf"

    @property
    def is_bad(self) -> bool:
        """Whether systemd-boot counts it as bad and prefers any other."""
        return self.left == 0


def rescue_name(slot: Slot) -> str:
    """An entry without counters, which the boot loader never renames: what boots when counted entries were lost or have run
    out."""
    return f"otaria-rescue-{slot.value.lower()}.conf"


def parse(name: str, text: str) -> Entry | None:
    """The entry in a file, or None when it is not one of ours."""
    named, facts = _NAME.fullmatch(name), _FACTS.search(text)
    if named is None or facts is None:
        return None
    words = dict(word.partition("=")[::2] for word in facts[1].split())
    try:
        return Entry(
            slot=Slot(named[1].upper()),
            number=int(named[2]),
            left=int(named[3]),
            done=int(named[4] or 0),
            version=int(words["version"]),
            phase=Phase(words["phase"]),
            total=int(words["total"]),
            trial_id=words["id"],
            ended=words["ended"],
            cause=words["cause"],
            canary=words["canary"],
            returned=words["returned"],
        )
    except (KeyError, ValueError):
        return None


def write(entry: Entry, template: str) -> str:
    """The file: what the template says of kernel and options, and what is ours."""
    facts = {
        "version": entry.version,
        "phase": entry.phase.value,
        "total": entry.total,
        "id": entry.trial_id,
        "ended": entry.ended,
        "cause": entry.cause,
        "canary": entry.canary,
        "returned": entry.returned,
    }
    said = " ".join(f"{name}={value}" for name, value in facts.items())
    return _entry(entry, SORT_KEY, f"# otaria {said}", template)


def write_rescue(entry: Entry, template: str) -> str:
    """A committed slot's entry without counters, which comes after every other that is not bad."""
    return _entry(entry, RESCUE_KEY, f"{RESCUE_MARK}version={entry.version}", template)


def canaries(text: str) -> tuple[str, ...]:
    """The canaries in a file's kernel options that are not empty."""
    return tuple(_CANARY.findall(text))


def newest(entries: Iterable[Entry]) -> dict[Slot, Entry]:
    """The newest entry of each slot."""
    found: dict[Slot, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.number):
        found[entry.slot] = entry
    return found


def committed_slot(found: Mapping[Slot, Entry]) -> Slot | None:
    """The slot that boots when no trial does: committed, not bad if possible, then the newer one."""
    kept = [entry for entry in found.values() if entry.phase is Phase.COMMITTED]
    best = max(kept, key=lambda entry: (not entry.is_bad, entry.version), default=None)
    return None if best is None else best.slot


def oldest_committed(found: Mapping[Slot, Entry]) -> Slot | None:
    """The slot that boots when every counter has run out: the previous system while it is there."""
    kept = [entry for entry in found.values() if entry.phase is Phase.COMMITTED]
    oldest = min(kept, key=lambda entry: entry.version, default=None)
    return None if oldest is None else oldest.slot


def _entry(entry: Entry, sort_key: str, comment: str, template: str) -> str:
    kept = [line for line in template.splitlines() if line.split(maxsplit=1)[:1] and line.split()[0] not in _OURS]
    lines = [
        f"title Otaria, slot {entry.slot.value}",
        f"sort-key {sort_key}",
        f"version {entry.version}",
        *(line for line in kept if not line.startswith("#")),
        f"options otaria.slot={entry.slot.value} otaria.canary={entry.canary} otaria.trial={entry.trial_id}",
        comment,
    ]
    return "\n".join(lines) + "\n"
