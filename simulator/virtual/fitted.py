"""How long devices take that answer from chances, as real agents were seen to take it (`python -m simulator.exact.fit` says it
anew; a test holds this table against it).

`boots`, in boots: from a permit to the trial; `boots_back`: to the old slot, when the new one doesn't come up; `boots_unwell`:
from a trial whose health check fails to the old slot. In seconds: `commit_s` from the end of the watch to the commit; `staged_s`
from the order to staged, beside the way and the download; `resend_s` until what was lost is said again; `ask_again_s` until an
ask without an answer is.
"""

from msgspec import Struct


class Fitted(Struct, frozen=True, kw_only=True):
    """See the module."""

    boots: float
    boots_back: float
    boots_unwell: float
    commit_s: float
    staged_s: float
    resend_s: float
    ask_again_s: float


FITTED = Fitted(
    boots=0.97,
    boots_back=3.98,
    boots_unwell=0.94,
    commit_s=0.0,
    staged_s=0.4,
    resend_s=34.33,
    ask_again_s=14.52,
)
