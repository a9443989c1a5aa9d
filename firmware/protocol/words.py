"""The words of the wire: identifiers, states and reasons that both ends use with one meaning."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
VERSION_PATTERN = r"^[0-9A-Za-z](?:[0-9A-Za-z.+~_-]{0,62}[0-9A-Za-z])?\Z"
PATH_PATTERN = r"^[a-z0-9](?:[A-Za-z0-9+~_-]|[./](?![./]))*\Z"
SHA256_PATTERN = r"^[0-9a-f]{64}\Z"
TOKEN_PATTERN = r"^[A-Za-z0-9_-]{1,64}\Z"
KIND_PATTERN = r"^[a-z][a-z0-9-]{0,63}\Z"

MAX_IMAGE_BYTES = 1 << 40
MAX_TEXT = 1024

Id = Annotated[str, Meta(pattern=ID_PATTERN, max_length=63)]
"""Server-assigned names: targets, agents, campaigns, change ids, products."""
Version = Annotated[str, Meta(pattern=VERSION_PATTERN, max_length=64)]
Path = Annotated[str, Meta(pattern=PATH_PATTERN, max_length=256)]
Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Nonce = Annotated[str, Meta(pattern=TOKEN_PATTERN)]
"""Random, 128 bits or more, base64url or hex: nonces, boot ids, journal ids."""
Kind = Annotated[str, Meta(pattern=KIND_PATTERN)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Base64Url = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,4096}\Z")]
"""Bytes as URL-safe base64 without padding."""
Label = Annotated[str, Meta(max_length=128)]
Length = Annotated[int, Meta(ge=0, le=MAX_IMAGE_BYTES)]
Count = Annotated[int, Meta(ge=0, le=(1 << 53) - 1)]
Posix = Annotated[int, Meta(ge=0, le=1 << 40)]
"""A time as whole POSIX seconds, UTC."""
Seconds = Annotated[int, Meta(ge=0, le=366 * 86400)]


class AgentState(StrEnum):
    """Where an agent stands with one order; the same words label the server's assignment."""

    IDLE = "idle"
    ORDERED = "ordered"
    DOWNLOADING = "downloading"
    STAGED = "staged"
    ASKING = "asking"
    ACTIVATING = "activating"
    TRIAL = "trial"
    COMMITTED = "committed"
    DEFERRED = "deferred"
    FELL_BACK = "fell_back"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class Action(StrEnum):
    """What an order asks for."""

    INSTALL = "install"
    ROLLBACK = "rollback"
    NOTHING = "nothing"


class ReasonKind(StrEnum):
    """Stable names for why something ended or waits. A sentence for people always goes with it."""

    BAD_SIGNATURE = "bad-signature"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    WRONG_TARGET = "wrong-target"
    WRONG_HARDWARE = "wrong-hardware"
    STALE_COUNTER = "stale-counter"
    EQUIVOCATION = "equivocation"
    ORDER_EXPIRED = "order-expired"
    NOT_UNDERSTOOD = "not-understood"
    CATALOGUE_EXPIRED = "catalogue-expired"
    CATALOGUE_MISMATCH = "catalogue-mismatch"
    CATALOGUE_REFUSED = "catalogue-refused"
    BELOW_FLOOR = "below-floor"
    MUST_PASS_THROUGH = "must-pass-through"
    UNREACHABLE = "unreachable"
    ARTIFACT_TRUNCATED = "artifact-truncated"
    ARTIFACT_TOO_LONG = "artifact-too-long"
    ARTIFACT_CHANGED = "artifact-changed"
    CANNOT_DECRYPT = "cannot-decrypt"
    WRONG_SOURCE = "wrong-source"
    READ_BACK_DIFFERS = "read-back-differs"
    IMAGE_MISSING = "image-missing"
    SLOT_TOO_SMALL = "slot-too-small"
    SLOT_ACTIVE = "slot-active"
    SLOT_IN_USE = "slot-in-use"
    SLOT_MISSING = "slot-missing"
    SLOT_AMBIGUOUS = "slot-ambiguous"
    SLOT_MOVED = "slot-moved"
    SLOT_NOT_BLOCK = "slot-not-block"
    SLOT_OVERLAPS = "slot-overlaps"
    SLOT_READ_ONLY = "slot-read-only"
    STORAGE_FAULT = "storage-fault"
    HEALTH_FAILED = "health-failed"
    HEALTH_REGRESSED = "health-regressed"
    HEALTH_RECOVERED = "health-recovered"
    BOOT_FAILED = "boot-failed"
    TRIAL_DEADLINE = "trial-deadline"
    TRIAL_TOO_SHORT = "trial-too-short"
    ATTEMPTS_EXHAUSTED = "attempts-exhausted"
    BOOT_LOOP = "boot-loop"
    PERMIT_STALE = "permit-stale"
    WITHDRAWN = "withdrawn"
    SUPERSEDED = "superseded"
    NO_PREVIOUS = "no-previous"
    INTERRUPTED = "interrupted"
    WORKER_ENDED = "worker-ended"
    BUSY = "busy"
    PUT_OFF = "put-off"
    CONSENT_NEEDED = "consent-needed"
    OUTSIDE_WINDOW = "outside-window"
    CONDITION_NOT_MET = "condition-not-met"
    HOOK_DEFERRED = "hook-deferred"
    HOOK_FAILED = "hook-failed"
    VETOED = "vetoed"
    DATA_NO_PLACE = "data-no-place"
    DATA_NO_PATH = "data-no-path"
    DATA_NO_ROOM = "data-no-room"
    DATA_GONE = "data-gone"
    MIGRATION_FAILED = "migration-failed"
    LOGS_NOT_ALLOWED = "logs-not-allowed"
    ROLLED_BACK_LOCALLY = "rolled-back-locally"
    FAILURE_LOG = "failure-log"
    BUNDLE_MALFORMED = "bundle-malformed"
    NOT_IN_BUNDLE = "not-in-bundle"
    ATTENDED_ORDER = "attended-order"
    WRONG_KIND = "wrong-kind"
    PLAN_DIFFERS = "plan-differs"
    PACKAGE_HELD = "package-held"
    PACKAGE_MISSING = "package-missing"
    PACKAGE_FAILED = "package-failed"
    PACKAGES_LOCKED = "packages-locked"
    PACKAGES_UNSOUND = "packages-unsound"
    NO_WAY_BACK = "no-way-back"
    NO_ROOM = "no-room"
    SNAPSHOT_FAILED = "snapshot-failed"
    ROLLBACK_FAILED = "rollback-failed"
    DRAIN_FAILED = "drain-failed"
