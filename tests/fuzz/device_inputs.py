"""Foreign bytes that only a device reads: what its director signed, and what lies in its boot environment."""

from collections.abc import Callable

import msgspec
from msgspec import Struct
from securesystemslib.signer import CryptoSigner

from device_agent.boot import entries
from device_agent.boot.cells import Codec, numbered
from device_agent.boot.grub_block import GrubBlock
from device_agent.boot.ledger import Ledger, to_variables
from device_agent.boot.uboot_block import UBootBlock
from device_agent.ports import Slot
from firmware.errors import OtariaError
from firmware.protocol import logs, order, permit, report
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import open_envelope, seal_payload

DIRECTOR = CryptoSigner.generate_ed25519()
KEYS = {DIRECTOR.public_key.keyid: DIRECTOR.public_key}
COUNTER = order.Counter(epoch=1, n=7)

Run = Callable[[bytes], str]


def signed() -> dict[str, tuple[Run, bytes]]:
    """Payloads under a good signature by kind: a stolen director key may sign anything."""
    withdrawn = order.Order(
        target="d-1",
        agent="d-1",
        hardware="hw-1",
        counter=COUNTER,
        action=order.Action.NOTHING,
        change_id="chg-1",
        issued_at=1,
        expires_at=2,
    )
    file = order.FileRef(path="releases/p/1/root.img", length=1, sha256="a" * 64)
    delta = order.DeltaRef(file=file, source_sha256="b" * 64, source_length=1)
    install = msgspec.structs.replace(
        withdrawn,
        action=order.Action.INSTALL,
        release=order.ReleaseRef(product="p", version="1", counter=1, manifest=file),
        images=[order.OrderedImage(file=file), order.OrderedImage(slot="app", file=file, delta=delta)],
    )
    granted = permit.Permit(
        target="d-1",
        agent="d-1",
        change_id="chg-1",
        order_hash="0" * 64,
        counter=COUNTER,
        boot_id="b" * 24,
        nonce="n" * 24,
        verdict=permit.Verdict.GRANTED,
        valid_s=300,
        issued_at=1,
    )
    ack = report.Ack(target="d-1", agent="d-1", journal="j" * 32, seq=1, report_hash="0" * 64, issued_at=1)
    asked = logs.LogRequest(
        target="d-1",
        agent="d-1",
        id="log-1",
        counter=COUNTER,
        what=[logs.What.AGENT],
        max_bytes=1024,
        issued_at=1,
        expires_at=2,
    )
    return {
        "log-request": (_opened(logs.REQUEST_KIND, logs.LogRequest), canonical(asked)),
        "order": (_opened(order.KIND, order.Order), canonical(withdrawn)),
        "install": (_opened(order.KIND, order.Order), canonical(install)),
        "permit": (_opened(permit.PERMIT_KIND, permit.Permit), canonical(granted)),
        "ack": (_opened(report.ACK_KIND, report.Ack), canonical(ack)),
    }


def environments() -> dict[str, tuple[Run, bytes]]:
    """What a boot loader's environment may hold, by its kind."""
    ledger = Ledger(left=3, spare=2, probe="feedbeef")
    stored = {"otaria_first": "4", **to_variables(ledger), "otaria_last": "4"}
    entry = entries.Entry(slot=Slot.A, number=4, left=3, total=3)
    return {
        "grub-block": (_environment(GrubBlock()), GrubBlock().encode(stored)),
        "u-boot-block": (_environment(UBootBlock()), UBootBlock().encode(stored)),
        "boot-entry": (_boot_entry, f"{entry.name}\n{entries.write(entry, 'linux /vmlinuz')}".encode()),
    }


def _opened(kind: str, model: type[Struct]) -> Run:
    def run(payload: bytes) -> str:
        try:
            opened = open_envelope(seal_payload(payload, kind, DIRECTOR), kind, model, KEYS)
        except OtariaError as error:
            return error.kind
        return f"opened/{type(opened.message).__name__}"

    return run


def _environment(codec: Codec) -> Run:
    def run(data: bytes) -> str:
        found = numbered(codec.decode(data))
        return "none" if found is None else f"ledger/{found[1].slot.value}"

    return run


def _boot_entry(data: bytes) -> str:
    name, _, text = data.decode(errors="replace").partition("\n")
    found = entries.parse(name, text)
    if found is None:
        return "none"
    again = entries.parse(found.name, entries.write(found, "linux /vmlinuz"))
    assert again is not None, "what was read can't be written"
    return f"entry/{again.slot.value}"
