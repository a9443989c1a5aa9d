"""What every benchmark is given."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`scratch`: an empty directory on a real disk, removed afterwards. `cache`: where downloaded packages are kept.

    `quick` asks for one or two small rounds, enough to see that everything still runs; its figures mean little.
    """

    scratch: Path
    cache: Path
    quick: bool = False

    def rounds(self, full: int) -> int:
        """How many rounds to run."""
        return 1 if self.quick else full

    def size(self, full: int) -> int:
        """How many things to take in one round."""
        return max(1, full // 20) if self.quick else full
