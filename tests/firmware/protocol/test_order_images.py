"""The images of an order: as many as may be fit into the message, at their longest."""

import pytest
from securesystemslib.signer import CryptoSigner

from firmware.contents import MAX_IMAGES
from firmware.errors import RefusedError
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.order import (
    KIND,
    MAX_BYTES,
    MAX_LISTED,
    MAX_SPANS,
    CodeKey,
    Counter,
    DeltaRef,
    FileRef,
    Order,
    OrderedImage,
    ReleaseRef,
    Span,
    WrappedKey,
)
from firmware.protocol.words import MAX_IMAGE_BYTES, Action

SIGNER = CryptoSigner.generate_ecdsa()
KEYS = {SIGNER.public_key.keyid: SIGNER.public_key}
LONG_ID, LONG_PATH = "i" * 63, "p" * 256


def longest(images: int) -> Order:
    """An order whose every field is as long as it may be, but for its key, which has the length of the one suite there is."""
    file = FileRef(path=LONG_PATH, length=MAX_IMAGE_BYTES, sha256="f" * 64)
    delta = DeltaRef(file=file, source_sha256="e" * 64, source_length=MAX_IMAGE_BYTES, salt="d" * 64)
    return Order(
        target=LONG_ID,
        agent=LONG_ID,
        hardware="h" * 128,
        counter=Counter(epoch=(1 << 53) - 1, n=(1 << 53) - 1),
        action=Action.INSTALL,
        change_id=LONG_ID,
        campaign=LONG_ID,
        issued_at=1 << 40,
        expires_at=1 << 40,
        unattended=True,
        windows=[Span(start=1 << 40, end=1 << 40)] * MAX_SPANS,
        code_key=CodeKey(suite="s" * 64, key_id="c" * 64, public="A" * 43),
        release=ReleaseRef(product=LONG_ID, version="v" * 64, counter=(1 << 53) - 1, manifest=file),
        images=[OrderedImage(slot=f"{'s' * 60}-{n:02}", file=file, delta=delta) for n in range(images)],
        wrapped_key=WrappedKey(suite="s" * 64, key_id="c" * 64, data="A" * 108),
        trial_s=366 * 86400,
        crit=["x" * 64] * 32,
    )


def test_as_many_images_as_may_be_fit_at_their_longest() -> None:
    envelope = seal(longest(MAX_IMAGES), KIND, SIGNER)
    assert len(envelope) <= MAX_BYTES
    opened = open_envelope(envelope, KIND, Order, KEYS, max_bytes=MAX_BYTES).message
    assert opened == longest(MAX_IMAGES)


def test_security_more_than_are_ever_listed_are_not_read() -> None:
    envelope = seal(longest(MAX_LISTED + 1), KIND, SIGNER)
    with pytest.raises(RefusedError) as caught:
        open_envelope(envelope, KIND, Order, KEYS, max_bytes=1 << 20)
    assert caught.value.kind == "malformed"
