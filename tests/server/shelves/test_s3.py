"""A bucket as a shelf, when things go wrong: on the way, in the store, and in the settings."""

import hashlib
import logging
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from firmware.errors import OtariaError, RefusedError
from server.config_artifacts import ArtifactSettings
from server.errors import StoreError
from server.shelves.s3 import ORPHAN_S, S3Shelf
from tests.s3_store import KEY, SECRET, Line, Spoil, Store, answer, spoilt_line, write_keys

PART = 5 << 20
DATA = random.Random(6).randbytes(2 * PART + 999)
SHA256 = hashlib.sha256(DATA).hexdigest()
SMALL = DATA[:200_000]
SMALL_SHA256 = hashlib.sha256(SMALL).hexdigest()
SLOW_DOWN = answer("503 Slow Down", "SlowDown")


@pytest.fixture
def bucket(s3_store: Store) -> str:
    return s3_store.make_bucket()


@pytest.fixture
def line(s3_store: Store) -> Iterator[Line]:
    with spoilt_line(s3_store) as line:
        yield line


@contextmanager
def shelf_at(settings: ArtifactSettings, attempts: int = 1) -> Iterator[S3Shelf]:
    """One that doesn't try again, which takes seconds, unless it is told to."""
    shelf = S3Shelf(settings, part_bytes=PART, attempts=attempts)
    try:
        yield shelf
    finally:
        shelf.close()


@pytest.fixture
def shelf(s3_store: Store, bucket: str, line: Line) -> Iterator[S3Shelf]:
    """At the far end of a line that works until a test spoils it."""
    with shelf_at(s3_store.settings(bucket, port=line.port)) as shelf:
        yield shelf


@pytest.fixture
def patient(s3_store: Store, bucket: str, line: Line) -> Iterator[S3Shelf]:
    """The same, as the server has it: it tries again."""
    with shelf_at(s3_store.settings(bucket, port=line.port, timeout_s=2.0), attempts=3) as shelf:
        yield shelf


def staged(tmp_path: Path, data: bytes = DATA) -> Path:
    path = tmp_path / "staged"
    path.write_bytes(data)
    return path


def to(method: bytes, pattern: bytes, what: Any) -> Spoil:
    """Do this to every request of a kind, and nothing to others."""
    return lambda _, head: what if re.match(method + rb" [^ ]*" + pattern, head) else None


def left_behind(store: Store, bucket: str) -> tuple[list[str], int]:
    """Objects, and multipart uploads that nobody completed or aborted."""
    objects = store.client.list_objects_v2(Bucket=bucket).get("Contents", ())
    uploads = store.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
    return [one["Key"] for one in objects], len(uploads)


def broken_off(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The head and a little of the body, and then nothing."""
    first = next(pieces)
    yield first[: max(400, len(first) // 2)]


def swallowed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Nothing, once it has all come."""
    for _ in pieces:
        pass
    return iter(())


def without_checksum(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """As stores answer that know none."""
    yield re.sub(rb"(?i)x-amz-checksum-[^\r]*\r\n", b"", b"".join(pieces))


def changed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Other bytes in the body, as many as before."""
    whole = b"".join(pieces)
    head, _, body = whole.partition(b"\r\n\r\n")
    yield head + b"\r\n\r\n" + bytes(byte ^ 1 for byte in body)


def test_an_object_has_the_name_and_the_headers_that_a_cache_needs(
    shelf: S3Shelf, s3_store: Store, bucket: str, tmp_path: Path
) -> None:
    for data, sha256 in ((DATA, SHA256), (SMALL, SMALL_SHA256)):
        shelf.put(staged(tmp_path, data), sha256)
        found = s3_store.client.head_object(Bucket=bucket, Key=f"firmware/{sha256}")
        assert found["CacheControl"] == "public, max-age=31536000, immutable"
        assert found["ContentType"] == "application/octet-stream"


def test_each_part_is_sent_with_its_own_hash(shelf: S3Shelf, line: Line, tmp_path: Path) -> None:
    shelf.put(staged(tmp_path), SHA256)
    parts = [head for head in line.heads if b"partNumber=" in head]
    assert len(parts) == 3
    told = [re.search(rb"(?i)x-amz-checksum-sha256: ([^\r]+)", head) for head in parts]
    assert len({found[1] for found in told if found}) == 3


def test_a_part_that_got_lost_is_sent_again(
    patient: S3Shelf, line: Line, s3_store: Store, bucket: str, tmp_path: Path
) -> None:
    lost = iter([b""])
    line.spoil = lambda _, head: next(lost, None) if b"partNumber=2" in head else None
    patient.put(staged(tmp_path), SHA256)
    assert patient.read(SHA256, 0, len(DATA)) == DATA
    assert left_behind(s3_store, bucket) == ([f"firmware/{SHA256}"], 0)


@pytest.mark.parametrize("pattern", [rb"\?uploads", rb"partNumber=1", rb"partNumber=3", rb"\?uploadId="])
def test_a_put_that_fails_anywhere_leaves_nothing(
    shelf: S3Shelf, line: Line, s3_store: Store, bucket: str, tmp_path: Path, pattern: bytes
) -> None:
    line.spoil = to(rb"P[A-Z]+", pattern, SLOW_DOWN)
    path = staged(tmp_path)
    with pytest.raises(StoreError) as failed:
        shelf.put(path, SHA256)
    assert failed.value.kind == "store-busy"
    assert failed.value.retry_after_s > 0
    assert left_behind(s3_store, bucket) == ([], 0)
    line.spoil = to(rb"no", rb"", None)
    shelf.put(path, SHA256)
    assert shelf.read(SHA256, 0, len(DATA)) == DATA


def test_a_put_is_proved_when_the_answer_to_its_end_got_lost(
    shelf: S3Shelf, line: Line, s3_store: Store, bucket: str, tmp_path: Path
) -> None:
    """The store completed it, and nobody heard: the next attempt finds it there."""
    line.spoil = to(rb"POST", rb"\?uploadId=", swallowed)
    path = staged(tmp_path)
    with pytest.raises(StoreError):
        shelf.put(path, SHA256)
    line.spoil = to(rb"no", rb"", None)
    shelf.put(path, SHA256)
    assert not path.exists()
    assert left_behind(s3_store, bucket) == ([f"firmware/{SHA256}"], 0)


def test_a_store_that_keeps_other_bytes_keeps_nothing(
    shelf: S3Shelf, line: Line, s3_store: Store, bucket: str, tmp_path: Path
) -> None:
    """It tells no checksum, so what it has is read back."""
    path = staged(tmp_path, SMALL)
    line.spoil = lambda _, head: {b"H": without_checksum, b"G": changed}.get(head[:1])
    with pytest.raises(StoreError) as failed:
        shelf.put(path, SMALL_SHA256)
    assert failed.value.kind == "store-refused"
    assert path.exists()
    assert left_behind(s3_store, bucket) == ([], 0)


def test_a_store_that_tells_another_checksum_keeps_nothing(
    shelf: S3Shelf, line: Line, s3_store: Store, bucket: str, tmp_path: Path
) -> None:
    def other(pieces: Iterator[bytes]) -> Iterator[bytes]:
        yield re.sub(rb"(?i)(x-amz-checksum-sha256: )....", rb"\1AAAA", b"".join(pieces))

    line.spoil = to(rb"HEAD", SHA256.encode(), other)
    with pytest.raises(StoreError) as failed:
        shelf.put(staged(tmp_path), SHA256)
    assert failed.value.kind == "store-refused"
    assert left_behind(s3_store, bucket) == ([], 0)


@pytest.mark.parametrize("data", [DATA, SMALL], ids=["parts", "one piece"])
def test_bytes_that_changed_on_the_disk_are_not_put(
    shelf: S3Shelf, s3_store: Store, bucket: str, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(RefusedError) as refused:
        shelf.put(staged(tmp_path, data[:-1] + bytes([data[-1] ^ 1])), hashlib.sha256(data).hexdigest())
    assert refused.value.kind == "artifact-changed"
    assert left_behind(s3_store, bucket) == ([], 0)


def test_a_window_that_broke_off_is_asked_for_again(patient: S3Shelf, line: Line, tmp_path: Path) -> None:
    patient.put(staged(tmp_path, SMALL), SMALL_SHA256)
    breaks = iter([broken_off, broken_off])
    line.spoil = lambda _, head: next(breaks, None) if head.startswith(b"GET") else None
    assert patient.read(SMALL_SHA256, 1000, 100_000) == SMALL[1000:101_000]
    assert next(breaks, None) is None


FAULTS: dict[str, tuple[Any, str]] = {
    "breaks off": (broken_off, "store-unreachable"),
    "hangs up": (b"", "store-unreachable"),
    "slow down": (SLOW_DOWN, "store-busy"),
    "fails": (answer("500 Internal Server Error", "InternalError"), "store-unreachable"),
    "denies": (answer("403 Forbidden", "AccessDenied"), "store-denied"),
    "has no bucket": (answer("404 Not Found", "NoSuchBucket"), "store-bucket-missing"),
    "speaks something else": (b"SSH-2.0-OpenSSH\r\n\r\n", "store-unreachable"),
    "says something odd": (answer("400 Bad Request", "Odd \r\n<script>"), "store-refused"),
}


@pytest.mark.parametrize(("what", "kind"), FAULTS.values(), ids=FAULTS)
def test_a_read_that_fails_is_told_by_its_kind(
    shelf: S3Shelf, line: Line, tmp_path: Path, what: Any, kind: str
) -> None:
    shelf.put(staged(tmp_path, SMALL), SMALL_SHA256)
    line.spoil = to(rb"GET", rb"", what)
    with pytest.raises(StoreError) as failed:
        shelf.read(SMALL_SHA256, 0, 100_000)
    assert failed.value.kind == kind
    assert failed.value.text.isprintable()


def test_a_store_that_sends_another_range_is_not_believed(shelf: S3Shelf, line: Line, tmp_path: Path) -> None:
    shelf.put(staged(tmp_path, SMALL), SMALL_SHA256)

    def from_the_front(pieces: Iterator[bytes]) -> Iterator[bytes]:
        yield re.sub(rb"(?i)content-range: bytes 1000-", b"Content-Range: bytes 0-", b"".join(pieces))

    line.spoil = to(rb"GET", rb"", from_the_front)
    with pytest.raises(StoreError) as failed:
        shelf.read(SMALL_SHA256, 1000, 1000)
    assert failed.value.kind == "store-refused"


def test_a_store_that_hangs_is_given_up(patient: S3Shelf, line: Line, tmp_path: Path) -> None:
    patient.put(staged(tmp_path, SMALL), SMALL_SHA256)
    waits = iter([True])

    def hang(pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Once, until the test is over."""
        if next(waits, False):
            line.pause.wait(60)
        yield from pieces

    line.spoil = to(rb"GET", rb"", hang)
    assert patient.read(SMALL_SHA256, 0, 10) == SMALL[:10]
    assert len([head for head in line.heads if head.startswith(b"GET")]) > 1


def test_a_store_that_is_not_there_says_where_it_was_looked_for(s3_store: Store, bucket: str, tmp_path: Path) -> None:
    with spoilt_line(s3_store) as line:
        port = line.port
    with shelf_at(s3_store.settings(bucket, port=port)) as shelf:
        for work in (shelf.check, lambda: shelf.length(SHA256), lambda: list(shelf.listed()), lambda: shelf.tidy(0.0)):
            with pytest.raises(StoreError) as failed:
                work()
            assert failed.value.kind == "store-unreachable"
            assert f"127.0.0.1:{port}" in failed.value.text


def test_a_bucket_that_is_not_there_is_named(s3_store: Store, tmp_path: Path) -> None:
    with shelf_at(s3_store.settings("nowhere")) as shelf:
        for work in (
            shelf.check,
            lambda: shelf.length(SHA256),
            lambda: shelf.read(SHA256, 0, 1),
            lambda: shelf.put(staged(tmp_path), SHA256),
            lambda: list(shelf.listed()),
            lambda: shelf.tidy(0.0),
        ):
            with pytest.raises(StoreError) as failed:
                work()
            assert failed.value.kind == "store-bucket-missing"
            assert "nowhere" in failed.value.text


@pytest.mark.parametrize("method", [b"PUT", b"GET", b"DELETE", b"HEAD"])
def test_the_check_tries_all_that_is_needed(
    shelf: S3Shelf, line: Line, s3_store: Store, bucket: str, method: bytes
) -> None:
    line.spoil = to(method, rb"", answer("403 Forbidden", "AccessDenied"))
    with pytest.raises(StoreError) as failed:
        shelf.check()
    assert failed.value.kind == "store-denied"
    assert "AbortMultipartUpload" in failed.value.text
    line.spoil = to(rb"no", rb"", None)
    if method != b"DELETE":
        assert left_behind(s3_store, bucket) == ([], 0)


def test_a_bucket_that_gives_back_other_bytes_fails_the_check(shelf: S3Shelf, line: Line) -> None:
    line.spoil = to(rb"GET", rb"", changed)
    with pytest.raises(StoreError) as failed:
        shelf.check()
    assert failed.value.kind == "store-refused"


def test_what_nobody_completed_is_aborted_when_it_is_old(
    shelf: S3Shelf, line: Line, s3_store: Store, bucket: str
) -> None:
    """moto tells one time for all uploads, so each is told its own here."""
    for name in ("old", "new"):
        s3_store.client.create_multipart_upload(Bucket=bucket, Key=f"firmware/{name}")
    s3_store.client.create_multipart_upload(Bucket=bucket, Key="of-somebody-else")
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    begun = {b"firmware/old": now - timedelta(seconds=ORPHAN_S), b"firmware/new": now - timedelta(seconds=ORPHAN_S - 1)}

    def dated(pieces: Iterator[bytes]) -> Iterator[bytes]:
        head, _, body = b"".join(pieces).partition(b"\r\n\r\n")
        for name, at in begun.items():
            stamp = b"<Initiated>" + at.strftime("%Y-%m-%dT%H:%M:%S.000Z").encode() + b"</Initiated>"
            body = re.sub(
                rb"(<Key>" + name + rb"</Key>.*?)<Initiated>[^<]*</Initiated>", rb"\1" + stamp, body, flags=re.DOTALL
            )
        yield head + b"\r\n\r\n" + body

    line.spoil = to(rb"GET", rb"\?.*uploads", dated)
    assert shelf.tidy(now.timestamp()) == 1
    left = s3_store.client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert {one["Key"] for one in left} == {"firmware/new", "of-somebody-else"}


def test_what_else_is_in_the_bucket_is_no_artifact(
    shelf: S3Shelf, s3_store: Store, bucket: str, tmp_path: Path
) -> None:
    shelf.put(staged(tmp_path, SMALL), SMALL_SHA256)
    for key in ("firmware/readme.txt", "firmware/" + "A" * 64, SHA256, f"other/{SHA256}", f"firmware/old/{SHA256}"):
        s3_store.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert [one.sha256 for one in shelf.listed()] == [SMALL_SHA256]


def test_more_than_a_page_is_listed(shelf: S3Shelf, line: Line, s3_store: Store, bucket: str) -> None:
    names = sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in range(5))
    for name in names:
        s3_store.client.put_object(Bucket=bucket, Key=f"firmware/{name}", Body=b"x")
    shelf._client.meta.events.register("before-parameter-build.s3.ListObjectsV2", _two_at_a_time)
    assert [one.sha256 for one in shelf.listed()] == names
    assert len([head for head in line.heads if b"list-type=2" in head]) == 3


def _two_at_a_time(params: dict[str, Any], **_: Any) -> None:
    params["MaxKeys"] = 2


def test_a_put_ends_at_its_next_part_when_the_server_stops(
    s3_store: Store, bucket: str, line: Line, tmp_path: Path
) -> None:
    shelf = S3Shelf(s3_store.settings(bucket, port=line.port), part_bytes=PART)

    def stop(pieces: Iterator[bytes]) -> Iterator[bytes]:
        shelf.close()
        yield from pieces

    line.spoil = to(rb"PUT", rb".*partNumber=1", stop)
    with pytest.raises(StoreError):
        shelf.put(staged(tmp_path), SHA256)
    assert not [head for head in line.heads if b"partNumber=2" in head]
    assert left_behind(s3_store, bucket) == ([], 0)
    shelf.close()


@pytest.fixture
def without_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that knows no keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_keys_that_are_not_there_are_asked_for(s3_store: Store, without_keys: None, tmp_path: Path) -> None:
    empty, half = tmp_path / "empty.keys", tmp_path / "half.keys"
    empty.write_text("")
    half.write_text("[default]\naws_access_key_id = AKIA\n")
    for given in (
        {"credentials_file": None},
        {"credentials_file": empty},
        {"credentials_file": half},
        {"credentials_file": tmp_path / "none"},
        {"profile": "somebody-else"},
    ):
        with pytest.raises(StoreError) as failed:
            S3Shelf(_but(s3_store.settings("any"), **given))
        assert failed.value.kind == "store-credentials-missing", given
        assert "AWS_ACCESS_KEY_ID" in failed.value.text


def test_the_keys_that_the_settings_name_are_used_and_no_others(
    s3_store: Store, bucket: str, line: Line, without_keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "two.keys", "AKIADEFAULT")
    keys.write_text(keys.read_text() + "[fleet]\naws_access_key_id = AKIAFLEET\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    own = s3_store.settings(bucket, port=line.port)
    for given, used in (
        ({"credentials_file": None}, b"AKIAENVIRONMENT"),
        ({"credentials_file": keys}, b"AKIADEFAULT"),
        ({"credentials_file": keys, "profile": "fleet"}, b"AKIAFLEET"),
    ):
        with shelf_at(_but(own, **given)) as shelf:
            shelf.length(SHA256)
        assert b"Credential=" + used + b"/" in line.heads[-1]


def test_keys_are_told_nobody(
    s3_store: Store, bucket: str, line: Line, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in errors, settings as shown, or logs as the server writes them; and what is sent is signed, not shown."""
    caplog.set_level(logging.INFO)
    settings = s3_store.settings(bucket, port=line.port)
    told = [repr(settings)]
    with shelf_at(settings) as shelf:
        told.append(repr(shelf))
        for what, _ in FAULTS.values():
            line.spoil = lambda _, head, what=what: what
            for work in (shelf.check, lambda: shelf.put(staged(tmp_path), SHA256), lambda: shelf.read(SHA256, 0, 1)):
                with pytest.raises(OtariaError) as failed:
                    work()
                told.append(f"{failed.value} {failed.value!r} {failed.value.__cause__!r}")
    told += [record.getMessage() for record in caplog.records]
    assert len(told) > 20
    assert not [text for text in told if SECRET in text or KEY in text or "Signature=" in text]
    assert not [head for head in line.heads if SECRET.encode() in head]


def _but(settings: ArtifactSettings, **given: Any) -> ArtifactSettings:
    return ArtifactSettings(**{**vars(settings), **given})
