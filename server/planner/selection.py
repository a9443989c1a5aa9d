"""Which targets a campaign takes: the plain values, and what they say in words.

Rules
- A match fits a target that has all of what it names; where it names several values, one of them. What it doesn't name fits all.
- A selection is a match without those that fit one of `exclude`. Hardware that the release isn't for is out besides.
- `frozen`: chosen when the campaign is made, and by revisions. `live`: whoever fits later comes in later, and who has no order
  yet and fits no more drops out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

FROZEN, LIVE = "frozen", "live"
MEMBERSHIPS = (FROZEN, LIVE)
Values = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Match:
    """`labels`: the value or values of each name. `hardware`, `versions` (that run there now) and `targets`: one of these."""

    labels: Mapping[str, Values] = field(default_factory=dict)
    hardware: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Such as `site=berlin|ulm, hardware=r1`; empty when it fits everybody."""
        labels = [(name, _listed(value)) for name, value in sorted(self.labels.items())]
        named = [(name, "|".join(getattr(self, name))) for name in ("hardware", "versions", "targets")]
        return ", ".join(f"{name}={values}" for name, values in (*labels, *named) if values)


@dataclass(frozen=True, kw_only=True)
class Selection(Match):
    """A match, and who is left out of it."""

    exclude: tuple[Match, ...] = ()
    membership: str = FROZEN

    @property
    def is_live(self) -> bool:
        return self.membership == LIVE

    @property
    def text(self) -> str:
        """What it says, for people."""
        left_out = [f"not ({match.text})" for match in self.exclude]
        said = [super().text or "all", *left_out, *([LIVE] if self.is_live else [])]
        return ", ".join(said)


EVERYBODY = Selection()
"""All whose hardware fits."""


def narrowed(selection: Selection, labels: Mapping[str, str]) -> Selection | None:
    """Those of the selection that have all of these labels, too; None when it rules them out."""
    if not all(value in _values(selection.labels.get(name, value)) for name, value in labels.items()):
        return None
    return replace(selection, labels={**selection.labels, **labels})


def _values(value: Values) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _listed(value: Values) -> str:
    return "|".join(_values(value))
