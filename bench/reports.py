"""Reports as a device of the benchmarks' fleet makes them."""

from firmware.protocol.order import Counter
from firmware.protocol.report import Inventory, Report, Running
from firmware.protocol.words import AgentState

PRODUCT, HARDWARE = "gateway", "gateway-r1"
OLD_SHA256, NEW_SHA256 = "1" * 64, "2" * 64
ORDER_HASH = "a" * 64


def report(
    device: str,
    *,
    seq: int,
    state: AgentState = AgentState.STAGED,
    order_hash: str | None = ORDER_HASH,
    counter: Counter | None = None,
    inventory: Inventory | None = None,
    oldest: int | None = None,
) -> Report:
    """The report with this number in a device's journal; everything before `oldest` (None: before it) is acked."""
    return Report(
        target=device,
        agent=device,
        journal="0123456789abcdef" * 2,
        seq=seq,
        oldest=oldest or seq,
        boot_id="fedcba9876543210" * 2,
        at=1,
        state=state,
        running=Running(slot="A", product=PRODUCT, version="1.0.0", sha256=OLD_SHA256, length=1 << 24),
        counter=counter,
        order_hash=order_hash,
        campaign="bench",
        inventory=inventory,
    )
