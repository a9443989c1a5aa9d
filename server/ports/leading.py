"""Who leads."""

from typing import Protocol

from msgspec import Struct


class Lease(Struct, frozen=True, kw_only=True):
    """Something that one holder at a time may call its own. `token` rises by one whenever it is taken, and fences off who had it
    before; `renewals` rises while the holder lives. `address`: where people reach the holder."""

    name: str
    holder: str = ""
    token: int = 0
    renewals: int = 0
    is_free: bool = True
    address: str = ""


class Leases(Protocol):
    def get(self, name: str) -> Lease:
        """The lease as it stands; free and with token 0 when nobody ever had it."""
        ...

    def take(self, seen: Lease, *, holder: str, address: str) -> Lease:
        """Make it this holder's, under the next token. Raises `ConflictError` when it is not as it was seen."""
        ...

    def hold(self, mine: Lease) -> None:
        """Make sure, for this transaction, that it is still the holder's; raises `NotLeaderError` when it isn't."""
        ...

    def renew(self, mine: Lease) -> None:
        """Show that the holder lives; raises `NotLeaderError` when it isn't the holder's any more."""
        ...

    def give_back(self, mine: Lease) -> None:
        """Let whoever wants it have it at once; changes nothing when it isn't the holder's any more."""
        ...
