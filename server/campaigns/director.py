"""The director: signs orders, permits and acks with the one online key that may.

It signs words, it decides nothing. Its epoch is the one the offline keys set in `targets`.
"""

from dataclasses import dataclass

from securesystemslib.signer import Signer

from firmware.protocol import order, permit, report
from firmware.protocol.envelope import seal


@dataclass(frozen=True, kw_only=True)
class Director:
    """A director key and the epoch its orders count in."""

    signer: Signer
    epoch: int

    def sign_order(self, message: order.Order) -> bytes:
        """The order's DSSE envelope."""
        return seal(message, order.KIND, self.signer)

    def sign_permit(self, message: permit.Permit) -> bytes:
        """The permit's DSSE envelope."""
        return seal(message, permit.PERMIT_KIND, self.signer)

    def sign_ack(self, message: report.Ack) -> bytes:
        """The ack's DSSE envelope."""
        return seal(message, report.ACK_KIND, self.signer)
