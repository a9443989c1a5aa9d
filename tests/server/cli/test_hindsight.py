"""What became of rehearsals, in words."""

import pytest

from server.campaigns.reckoning import Fell, Reckoned
from server.cli.hindsight import _line


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "never"), (20.99, "0.3 min"), (338.5, "5.6 min"), (3600.0, "1.0 h"), (90_000.0, "25.0 h")],
)
def test_a_span_is_told_in_hours_or_minutes(seconds: float | None, said: str) -> None:
    one = Reckoned(name="canary", p10=0.0, p90=7200.0, real=seconds, fell=Fell.WITHIN)
    assert _line(one) == f"canary decided after 0.0 min to 2.0 h; it happened after {said}, within the band."
