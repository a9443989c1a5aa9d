"""The director: signs orders, permits, acks and requests for logs with the one online key that may, and hands out
keys of encrypted releases.

It decides nothing. Its epoch is the one the offline keys set in `targets`.
"""

from dataclasses import dataclass

from msgspec import Struct
from securesystemslib.signer import Signer

from firmware.errors import UnavailableError
from firmware.protocol import logs, order, permit, report
from firmware.protocol.envelope import seal
from server.campaigns.code_keys import CodeKeys
from server.campaigns.release_keys import ReleaseKeys


@dataclass(frozen=True, kw_only=True)
class Director:
    """A director key and the epoch its orders count in. Without `release_keys` it orders no encrypted releases,
    without `code_keys` its orders for unattended use bring no key for a typed code."""

    signer: Signer
    epoch: int
    release_keys: ReleaseKeys | None = None
    code_keys: CodeKeys | None = None

    def sign_order(self, message: order.Order) -> bytes:
        """The order's DSSE envelope."""
        return self._seal(message, order.KIND)

    def sign_permit(self, message: permit.Permit) -> bytes:
        """The permit's DSSE envelope."""
        return self._seal(message, permit.PERMIT_KIND)

    def sign_ack(self, message: report.Ack) -> bytes:
        """The ack's DSSE envelope."""
        return self._seal(message, report.ACK_KIND)

    def sign_log_request(self, message: logs.LogRequest) -> bytes:
        """The DSSE envelope of a request for logs."""
        return self._seal(message, logs.REQUEST_KIND)

    def _seal(self, message: Struct, kind: str) -> bytes:
        """Sign; a key that cannot be used now (a token that is gone, a service that is down) keeps the work waiting."""
        try:
            return seal(message, kind, self.signer)
        except Exception as error:
            raise UnavailableError(
                "director-unavailable", f"The director's key could not sign the {kind}; check where it is kept."
            ) from error
