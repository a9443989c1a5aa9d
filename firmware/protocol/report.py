"""What agents say: signed reports with a contiguous sequence, signed acks, and unsigned progress and presence."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from firmware.contents import MAX_IMAGES
from firmware.protocol.metrics import Metrics
from firmware.protocol.order import Counter
from firmware.protocol.packages import Held, PackagesPart
from firmware.protocol.words import (
    AgentState,
    Base64Url,
    Count,
    Id,
    Kind,
    Label,
    Length,
    Nonce,
    Posix,
    Sha256,
    Text,
    Version,
)

REPORT_KIND = "report"
ACK_KIND = "ack"
MAX_REPORT_BYTES = 32768
MAX_PROGRESS_BYTES = 1024
MAX_PRESENCE_BYTES = 512


class Reason(Struct, frozen=True, kw_only=True):
    """Why: a stable kind and one sentence for people."""

    kind: Kind
    text: Text = ""


class RunningImage(Struct, frozen=True, kw_only=True):
    """One image of several that run: its slot set, sha256 and length."""

    slot: Id
    sha256: Sha256
    length: Length


class Running(Struct, frozen=True, kw_only=True):
    """What a target runs now, and whether it can go back. `slot` A or B; `sha256`, if known, is that of the image, or of all the
    `images` when there are several (`firmware.contents`), and `length` their bytes together.
    """

    slot: Annotated[str, Meta(pattern=r"^[AB]\Z")]
    product: Id | None = None
    version: Version | None = None
    release_counter: Count = 0
    sha256: Sha256 | None = None
    length: Length = 0
    images: Annotated[list[RunningImage], Meta(max_length=MAX_IMAGES)] = []
    previous_version: Version | None = None
    rollback_available: bool = False


class EncryptionKey(Struct, frozen=True, kw_only=True):
    """The public key that keys of encrypted releases are wrapped to, by `suite`. The private one never leaves the device."""

    suite: Kind
    public: Base64Url


class Inventory(Struct, frozen=True, kw_only=True):
    """Facts about a target. `capabilities`: `delta-otd1`, it applies deltas of that format; `delta-memory-BYTES`, it has so much
    memory for that, and no more. Without `encryption_key` it takes no encrypted releases. `endpoint`: the server's address by
    which it comes now; `services_cas`: the services CAs that it trusts (sha256 of the DER).
    """

    hardware: Label
    agent_version: Label
    labels: Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=64)] = {}
    capabilities: Annotated[list[Label], Meta(max_length=64)] = []
    encryption_key: EncryptionKey | None = None
    endpoint: Annotated[str, Meta(max_length=320)] = ""
    services_cas: Annotated[list[Sha256], Meta(max_length=4)] = []


class Report(Struct, frozen=True, kw_only=True):
    """Signed by the target's report key; waits in the outbox until acked.

    `seq` starts at 1 and is contiguous per (report key, `journal`). `oldest` is the lowest seq that was unacked when this
    report was made, so that a server restored from a backup can tell "coming later" from "gone". `counter` is the highest
    counter of any order the target has accepted. `at` is the target's trusted time. A report with `inventory` goes to the
    inventory topic; any other goes to the report topic and is about the order `order_hash`, or brings `metrics`, or a part of
    a host's `packages`.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    journal: Nonce
    seq: Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
    oldest: Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
    boot_id: Nonce
    at: Posix
    state: AgentState
    running: Running
    counter: Counter | None = None
    order_hash: Sha256 | None = None
    campaign: Id | None = None
    change_id: Id | None = None
    reason: Reason | None = None
    evidence: dict[str, Any] = {}
    inventory: Inventory | None = None
    metrics: Metrics | None = None
    packages: PackagesPart | None = None


class Ack(Struct, frozen=True, kw_only=True):
    """Signed by the director after the server's commit: everything up to `seq` of `journal` is stored.

    `report_hash` must equal the hash of the report with that seq in the outbox. `packages`: what the server holds of the host's
    packages, when the report brought of them, or came after some that are lost; None: not said.
    """

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    target: Id
    agent: Id
    journal: Nonce
    seq: Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
    report_hash: Sha256
    issued_at: Posix
    packages: Held | None = None


class Progress(Struct, frozen=True, kw_only=True):
    """Unsigned, QoS 0, on the report topic: shown to people, moves nothing. Told apart by having no `payloadType`."""

    progress: AgentState
    order_hash: Sha256 | None = None
    done: Length = 0
    total: Length = 0


class Presence(Struct, frozen=True, kw_only=True):
    """Unsigned, retained; `online: false` is also the last will. A hint for people, not for gates."""

    session: Nonce
    online: bool
