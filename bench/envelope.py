"""Opening a signed report (parse, check, verify), against the bare signature check that it contains."""

from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from bench.measure import in_turns, seconds
from bench.plan import Plan
from bench.reports import report
from bench.result import Outcome, against_peer
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.report import REPORT_KIND, Report
from firmware.protocol.unverified import payload_type

ROUNDS, MESSAGES = 7, 2000


def envelope(plan: Plan) -> list[Outcome]:
    """Envelopes opened per second."""
    key, count = ec.generate_private_key(ec.SECP256R1()), plan.size(MESSAGES)
    signer = CryptoSigner(key)
    message = report("d-bench", seq=1)
    data, keys = seal(message, REPORT_KIND, signer), {signer.public_key.keyid: signer.public_key}
    signed = Envelope(canonical(message), payload_type(REPORT_KIND), {}).pae()
    signature, public = key.sign(signed, ec.ECDSA(SHA256())), key.public_key()
    ours = partial(_rate, count, lambda: open_envelope(data, REPORT_KIND, Report, keys))
    bare = partial(_rate, count, lambda: public.verify(signature, signed, ec.ECDSA(SHA256())))
    mine, theirs = in_turns(plan.rounds(ROUNDS), ours, bare)
    return [against_peer("envelope.open", "per s", "higher", mine, "cryptography: ECDSA P-256 verify alone", theirs)]


def _rate(count: int, work: Callable[[], object]) -> float:
    def repeated() -> None:
        for _ in range(count):
            work()

    return count / seconds(repeated)
