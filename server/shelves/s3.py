"""Artifacts as objects of an S3-compatible store: each under the prefix and its sha256.

An object appears whole or not at all: what takes several requests is a multipart upload, which is nothing to see before it is
completed. Each part is sent with its sha256; while parts are read, the whole is hashed once more. At the end the store is asked
what it has: its own checksum must be ours, and where it tells none, the object is read back. Memory stays at one part.
"""

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.words import ReasonKind
from server.config_artifacts import ArtifactSettings
from server.errors import NotFoundError, StoreError
from server.ports import Resting
from server.shelves.s3_client import ATTEMPTS, AbsentError, asking, bucket_missing, open_client

PART_BYTES = 16 << 20
MAX_PARTS = 10_000
READ_BACK_BYTES = 1 << 20
ORPHAN_S = 86400.0
"""A multipart upload that began so long ago is nobody's any more."""
_FOR_EVER = "public, max-age=31536000, immutable"
_SHA256_DIGITS = 64


class S3Shelf:
    """Objects of one bucket, below one prefix."""

    def __init__(self, settings: ArtifactSettings, *, part_bytes: int = PART_BYTES, attempts: int = ATTEMPTS) -> None:
        """`attempts`: at each request, and at each window that breaks off. Nothing is asked of the store yet.

        Raises `StoreError` (`store-credentials-missing`)."""
        self._settings, self._part_bytes = settings, part_bytes
        self._attempts = attempts
        self._client = open_client(settings, attempts=attempts)
        self._is_closed = False

    def length(self, sha256: str) -> int | None:
        try:
            return int(_said(self._ask("head_object", Key=self._key(sha256)), "ContentLength"))
        except AbsentError:
            self._require_bucket()
            return None

    def read(self, sha256: str, offset: int, size: int) -> bytes:
        if size == 0:
            return b""
        for left in reversed(range(self._attempts)):
            try:
                return self._read(sha256, offset, size)
            except AbsentError as error:
                raise NotFoundError(f"There is no artifact with the sha256 {sha256}.") from error
            except StoreError as error:
                if error.kind != "store-unreachable" or not left:
                    raise
        raise AssertionError("unreachable")

    def file(self, sha256: str) -> Path | None:
        return None

    def put(self, path: Path, sha256: str) -> None:
        length = path.stat().st_size
        if self.length(sha256) != length:
            with path.open("rb") as file:
                checksum = self._send(file, length, sha256)
            self._prove(sha256, length, checksum)
        path.unlink()

    def listed(self) -> Iterator[Resting]:
        for page in self._pages("list_objects_v2"):
            for one in page.get("Contents", ()):
                name = one["Key"].removeprefix(self._settings.prefix)
                if len(name) == _SHA256_DIGITS and not set(name) - set("0123456789abcdef"):
                    yield Resting(sha256=name, length=one["Size"])

    def check(self) -> None:
        """Prove that an object can be written, read and removed. Raises `StoreError`."""
        key, data = f"{self._settings.prefix}probe-{secrets.token_hex(8)}", secrets.token_bytes(32)
        self._require_bucket()
        self._ask("put_object", Key=key, Body=data)
        try:
            with asking(self._settings):
                found = self._client.get_object(Bucket=self._settings.bucket, Key=key)["Body"].read(len(data) + 1)
        except AbsentError:
            found = b""
        finally:
            self._ask("delete_object", Key=key)
        if found != data:
            text = f"The bucket {self._settings.bucket} doesn't give back what was written to it; use another one."
            raise StoreError("store-refused", text)

    def reach(self) -> None:
        """The bucket is there and lets us in."""
        self._require_bucket()

    def tidy(self, now: float) -> int:
        """Abort multipart uploads of processes that have ended; how many there were."""
        count = 0
        for page in self._pages("list_multipart_uploads"):
            for one in page.get("Uploads", ()):
                if one["Initiated"].timestamp() + ORPHAN_S <= now:
                    with contextlib.suppress(AbsentError):
                        self._ask("abort_multipart_upload", Key=one["Key"], UploadId=one["UploadId"])
                    count += 1
        return count

    def close(self) -> None:
        """Give up what is under way at its next part, and let go of connections."""
        self._is_closed = True
        self._client.close()

    def _key(self, sha256: str) -> str:
        return f"{self._settings.prefix}{sha256}"

    def _ask(self, operation: str, **given: Any) -> dict[str, Any]:
        with asking(self._settings):
            answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self._settings.bucket, **given)
        return answer

    def _require_bucket(self) -> None:
        try:
            self._ask("head_bucket")
        except AbsentError as error:
            raise bucket_missing(self._settings) from error

    def _pages(self, operation: str) -> Iterator[dict[str, Any]]:
        try:
            with asking(self._settings):
                pages = self._client.get_paginator(operation)
                yield from pages.paginate(Bucket=self._settings.bucket, Prefix=self._settings.prefix)
        except AbsentError as error:
            raise bucket_missing(self._settings) from error

    def _read(self, sha256: str, offset: int, size: int) -> bytes:
        wanted = f"bytes={offset}-{offset + size - 1}"
        with asking(self._settings):
            answer = self._client.get_object(Bucket=self._settings.bucket, Key=self._key(sha256), Range=wanted)
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read(size)
        if not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
            raise StoreError("store-refused", "The artifact store answers with another range than was asked for.")
        if len(data) != size:
            raise StoreError("store-unreachable", "The artifact store broke off; it is tried again.")
        return data

    def _send(self, file: BinaryIO, length: int, sha256: str) -> "_Checksum":
        """Send it whole or in parts; the checksum that the store should have of it."""
        about = {"Key": self._key(sha256), "CacheControl": _FOR_EVER, "ContentType": "application/octet-stream"}
        if length <= self._part_bytes:
            data = file.read(length + 1)
            _expect(hashlib.sha256(data).hexdigest(), sha256)
            told = _base64(bytes.fromhex(sha256))
            self._ask("put_object", Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=told, **about)
            return _Checksum(whole=told, parts=told)
        begun = self._ask("create_multipart_upload", ChecksumAlgorithm="SHA256", **about)
        upload = {"Key": about["Key"], "UploadId": _said(begun, "UploadId")}
        try:
            parts, checksum = self._send_parts(file, length, sha256, upload)
            self._ask("complete_multipart_upload", MultipartUpload={"Parts": parts}, **upload)
        except BaseException:
            with contextlib.suppress(OtariaError, AbsentError):
                self._ask("abort_multipart_upload", **upload)
            raise
        return checksum

    def _send_parts(
        self, file: BinaryIO, length: int, sha256: str, upload: dict[str, str]
    ) -> tuple[list[dict[str, Any]], "_Checksum"]:
        whole, of_parts, parts = hashlib.sha256(), hashlib.sha256(), list[dict[str, Any]]()
        size = max(self._part_bytes, -(-length // MAX_PARTS))
        while data := file.read(size):
            if self._is_closed:
                raise StoreError("store-unreachable", "The server stops; send the artifact again when it is back.")
            digest, number = hashlib.sha256(data), len(parts) + 1
            whole.update(data)
            of_parts.update(digest.digest())
            told = _base64(digest.digest())
            sent = self._ask("upload_part", PartNumber=number, Body=data, ChecksumSHA256=told, **upload)
            parts.append({"PartNumber": number, "ETag": _said(sent, "ETag"), "ChecksumSHA256": told})
        _expect(whole.hexdigest(), sha256)
        return parts, _Checksum(whole=_base64(whole.digest()), parts=_base64(of_parts.digest()))

    def _prove(self, sha256: str, length: int, checksum: "_Checksum") -> None:
        """Make sure that the store has what was sent; what it has is removed otherwise."""
        try:
            found = self._ask("head_object", Key=self._key(sha256), ChecksumMode="ENABLED")
            told = str(found.get("ChecksumSHA256", "")).partition("-")[0]
            is_right = _said(found, "ContentLength") == length and (
                told in (checksum.whole, checksum.parts) if told else self._hash(sha256, length) == sha256
            )
        except (AbsentError, NotFoundError):
            is_right = False
        if not is_right:
            with contextlib.suppress(OtariaError, AbsentError):
                self._ask("delete_object", Key=self._key(sha256))
            text = "The artifact store kept other bytes than it was sent; nothing was kept. Send it again."
            raise StoreError("store-refused", text)

    def _hash(self, sha256: str, length: int) -> str:
        digest = hashlib.sha256()
        for offset in range(0, length, READ_BACK_BYTES):
            digest.update(self.read(sha256, offset, min(READ_BACK_BYTES, length - offset)))
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Checksum:
    """What a store may tell of an object, in base64: the sha256 of all, or of its parts' sha256 one after another."""

    whole: str
    parts: str


def _said(answer: Mapping[str, Any], name: str) -> Any:
    """What an answer of the store has under this name. Raises `StoreError` (`store-refused`) when it has nothing."""
    if name not in answer:
        text = f"The artifact store answers without {name}, as nothing that speaks S3 does; check `artifacts.endpoint`."
        raise StoreError("store-refused", text)
    return answer[name]


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _expect(found: str, wanted: str) -> None:
    if found != wanted:
        text = (
            f"The bytes on this disk have the sha256 {found} now, not {wanted}; nothing was kept. Send the file again."
        )
        raise RefusedError(ReasonKind.ARTIFACT_CHANGED, text)
