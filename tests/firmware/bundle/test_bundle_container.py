"""The container: what is written is read again by us and by any ZIP tool; whatever deviates by a byte is refused, typed."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.bundle.layout import CENTRAL, END, MAX_ENTRIES, Entry, local_header
from firmware.bundle.read import Bundle
from firmware.bundle.write import Content, write_bundle
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical
from firmware.protocol.order import MAX_BYTES
from tests.firmware.bundle.makers import (
    IMAGE,
    IMAGE_SHA256,
    Held,
    Part,
    contents,
    joined,
    note,
    opened,
    parts,
    told,
    whole,
)


def refused(data: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        everything(opened(data))
    return caught.value


def everything(bundle: Bundle) -> None:
    """Read all that is in it."""
    for target in bundle.orders():
        assert bundle.order(target) is not None
    bundle.metadata("1.root.json", 1000)
    bundle.metadata("timestamp.json", 1000)
    if bundle.length(IMAGE_SHA256) is not None:
        assert b"".join(bundle.artifact(IMAGE_SHA256)) is not None


def test_a_bundle_is_read_as_it_was_written() -> None:
    bundle = opened(whole())
    assert list(bundle.orders()) == ["dev-1", "dev-2"]
    assert bundle.order("dev-2") == b'{"order": "dev-2"}'
    assert bundle.order("dev-3") is None
    assert bundle.metadata("timestamp.json", 100) == b'{"timestamp": 1}'
    assert bundle.metadata("2.root.json", 100) is None
    assert bundle.length(IMAGE_SHA256) == len(IMAGE)
    assert bundle.length("cd" * 32) is None
    assert b"".join(bundle.artifact(IMAGE_SHA256, 5000)) == IMAGE[5000:]
    assert bundle.note == note(2)


def test_metadata_beyond_what_its_reader_takes_is_cut_so_that_it_sees_that() -> None:
    assert opened(whole()).metadata("1.root.json", 5) == b'{"root'


def test_the_id_is_that_of_the_contents() -> None:
    assert opened(whole()).id == opened(whole()).id
    assert opened(whole()).id != opened(whole(["dev-1", "dev-3"])).id


def test_other_tools_read_a_bundle() -> None:
    with zipfile.ZipFile(io.BytesIO(whole())) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [one.name for one in contents()]
        assert archive.read(f"artifacts/{IMAGE_SHA256}") == IMAGE


def test_what_other_tools_write_is_no_bundle() -> None:
    """Deflated, with times, flags or entries in another order: there is one way to write a bundle."""
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", how) as archive:
            for one in contents():
                archive.writestr(one.name, b"".join(one.open()))
        assert refused(out.getvalue()).kind == "bundle-malformed"


def _renamed(name: str) -> bytes:
    kept = [(part.told.name, part.lies[30 + len(part.told.name) :]) for part in parts()]
    return joined(parts(sorted([*kept, (name, b"{}")])))


def _twice() -> bytes:
    made = parts()
    return joined([*made[:-1], made[-2], *made[-1:]])


def _overlapping() -> bytes:
    made = parts()
    return joined([*made[:-1], told(made[-1], offset=made[-2].told.offset)])


def _longer(length: int) -> bytes:
    made = parts()
    return joined([told(made[0], length=length), *made[1:]])


def _header_lies() -> bytes:
    made = parts()
    data = bytearray(joined(made))
    at = made[-1].told.offset + 30
    data[at : at + 12] = b"orders/dev-9"
    return bytes(data)


def _cut(by: int) -> bytes:
    return whole()[:-by]


def _line_changed(offset: int, value: bytes) -> bytes:
    data = bytearray(whole())
    at = data.index(b"PK\1\2")
    data[at + offset : at + offset + len(value)] = value
    return bytes(data)


def _end_changed(**fields: int) -> bytes:
    data = whole()
    values = list(END.unpack(data[-END.size :]))
    for name, value in fields.items():
        values[{"count": 4, "here": 3, "size": 5, "at": 6}[name]] = value
    return data[: -END.size] + END.pack(*values)


def _hidden_in_another() -> bytes:
    """An order whose header and bytes lie inside the image, and nowhere else."""
    order, at = b"{}", 30 + len(f"artifacts/{IMAGE_SHA256}")
    hidden = Entry(name="orders/dev-1.json", length=2, crc=zlib.crc32(order), offset=at)
    image = local_header(hidden) + order
    made = parts(
        [(f"artifacts/{IMAGE_SHA256}", image), ("bundle.json", canonical(note(2))), ("orders/dev-2.json", order)]
    )
    return joined([*made[:2], Part(told=hidden, lies=b""), made[2]])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "noise": lambda: b"PK" * 500,
    "not whole": lambda: _cut(1),
    "without its directory": lambda: _cut(600),
    "cut in the image": lambda: whole()[:4000],
    "something behind it": lambda: whole() + b"\0",
    "a comment": lambda: _end_changed()[:-2] + b"\1\0!",
    "something before it": lambda: b"#!/bin/sh\n" + whole(),
    "something between": lambda: joined(parts(), between=b"hidden"),
    "a path that climbs": lambda: _renamed("orders/../../etc/passwd"),
    "an absolute path": lambda: _renamed("/etc/passwd"),
    "a backslash": lambda: _renamed("orders\\dev-9.json"),
    "a folder": lambda: _renamed("orders/"),
    "an unknown kind": lambda: _renamed("scripts/run.sh"),
    "a name in upper case": lambda: _renamed("orders/DEV-9.json"),
    "an entry twice": _twice,
    "entries out of order": lambda: joined([*parts()[1:], parts()[0]]),
    "overlapping entries": _overlapping,
    "an entry hidden in another": _hidden_in_another,
    "an entry beyond the file": lambda: _longer(1 << 33),
    "an entry beyond what it may have": lambda: _longer(1 << 50),
    "an order that is too long": lambda: _renamed_long(),
    "a header that names another order": _header_lies,
    "a wrong checksum": lambda: joined([*parts()[:-1], told(parts()[-1], crc=1)]),
    "fewer entries than there are": lambda: joined(parts(), count=3),
    "more entries than there are": lambda: joined(parts(), count=9),
    "more entries than any bundle has": lambda: joined(parts(), count=MAX_ENTRIES + 1),
    "counts that differ": lambda: _end_changed(here=3),
    "a directory of another length": lambda: _end_changed(size=7),
    "a directory in another place": lambda: _end_changed(at=7),
    "64 bits that aren't there": lambda: _end_changed(count=0xFFFF, size=0xFFFFFFFF, at=0xFFFFFFFF),
    "a compressed entry": lambda: _line_changed(10, b"\x08\0"),
    "an encrypted entry": lambda: _line_changed(8, b"\1\0"),
    "a link": lambda: _line_changed(38, struct.pack("<I", 0o120777 << 16)),
    "an endless name": lambda: _line_changed(28, b"\xff\xff"),
    "an endless extra field": lambda: _line_changed(30, b"\xff\xff"),
    "a comment of an entry": lambda: _line_changed(32, b"\1\0"),
    "no note": lambda: joined(parts([(part.told.name, b"{}") for part in parts() if "bundle" not in part.told.name])),
    "orders that the note doesn't count": lambda: b"".join(
        write_bundle([*contents()[:1], Content.of("bundle.json", canonical(note(3))), *contents()[2:]])
    ),
}


def _renamed_long() -> bytes:
    return joined(parts([("bundle.json", canonical(note(1))), ("orders/dev-1.json", b" " * (MAX_BYTES + 1))]))


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_bundle_is_refused(how: str) -> None:
    error = refused(HOSTILE[how]())
    assert error.kind in ("bundle-malformed", "malformed")
    assert error.text.endswith(".")


@given(at=st.integers(0, len(whole()) - 1), to=st.integers(0, 255))
def test_every_byte_that_is_no_content_of_an_artifact_counts(at: int, to: int) -> None:
    data = bytearray(whole())
    if data[at] == to:
        return
    data[at] = to
    image_at = 30 + len(f"artifacts/{IMAGE_SHA256}")
    if image_at <= at < image_at + len(IMAGE):
        everything(opened(bytes(data)))  # its hash is signed; the container needs no other
    else:
        assert refused(bytes(data)).kind in ("bundle-malformed", "malformed")


def test_a_stick_that_is_pulled_out_is_not_a_bad_bundle() -> None:
    class Pulled(Held):
        def read_at(self, offset: int, size: int) -> bytes:
            raise UnavailableError("unreachable", "The stick is gone.")

    with pytest.raises(UnavailableError):
        Bundle(Pulled(whole()))


def test_a_bomb_of_many_entries_is_noticed_before_it_is_read() -> None:
    file = Held(joined(parts(), count=MAX_ENTRIES + 1) + b"")
    with pytest.raises(RefusedError):
        Bundle(file)
    assert file.read < 200


def test_the_writer_writes_nothing_that_the_reader_would_refuse() -> None:
    for bad in (
        [Content.of("orders/../x.json", b"{}")],
        [Content.of("orders/b.json", b"{}"), Content.of("orders/a.json", b"{}")],
        [Content.of("orders/a.json", b" " * (MAX_BYTES + 1))],
    ):
        with pytest.raises(ValueError, match="can't come here"):
            list(write_bundle(bad))


def test_content_that_changes_while_it_is_written_is_noticed() -> None:
    tries = iter([b"one", b"two"])
    content = Content(name="bundle.json", length=3, open=lambda: (next(tries),))
    with pytest.raises(ValueError, match="changed while"):
        list(write_bundle([content]))


class Sparse(io.RawIOBase):
    """A file whose zero bytes take no memory."""

    def __init__(self, pieces: Iterable[bytes], zero: bytes) -> None:
        self._at = 0
        self._places: list[tuple[int, bytes]] = []
        self._size, self._zero = 0, zero
        for piece in pieces:
            if piece is not zero:
                self._places.append((self._size, piece))
            self._size += len(piece)

    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self._size - offset))
        out = bytearray(size)
        for at, piece in self._places:
            start, end = max(at, offset), min(at + len(piece), offset + size)
            if start < end:
                out[start - offset : end - offset] = piece[start - at : end - at]
        return bytes(out)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        data = self.read_at(self._at, self._size - self._at if size < 0 else size)
        self._at += len(data)
        return data


def test_an_image_beyond_4_gib_takes_the_wide_fields_and_no_memory() -> None:
    zero = bytes(1 << 24)

    def image() -> Iterator[bytes]:
        yield from (zero for _ in range(257))

    tracemalloc.start()
    try:
        made = [Content(name=f"artifacts/{IMAGE_SHA256}", length=257 << 24, open=image), *contents()[1:]]
        file = Sparse(write_bundle(made), zero)
        bundle = Bundle(file)
        assert bundle.length(IMAGE_SHA256) == 257 << 24
        assert bundle.order("dev-2") == b'{"order": "dev-2"}'
        assert len(next(bundle.artifact(IMAGE_SHA256, (257 << 24) - 5))) == 5
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
        assert archive.getinfo(f"artifacts/{IMAGE_SHA256}").file_size == 257 << 24
        assert archive.read("orders/dev-2.json") == b'{"order": "dev-2"}'


def test_more_orders_than_16_bits_count_are_read_by_us_and_by_other_tools() -> None:
    data = whole(f"dev-{place:05}" for place in range(70_000))
    assert opened(data).note.orders == 70_000
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) == 70_004


def test_ten_thousand_orders_take_no_more_memory_than_ten() -> None:
    def peak(number: int) -> int:
        file = Held(whole([f"dev-{place:05}" for place in range(number)]))
        tracemalloc.start()
        try:
            bundle = Bundle(file)
            assert bundle.order(f"dev-{number - 1:05}") is not None
            assert bundle.note.orders == number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(10_000) < peak(1_000) + (1 << 17)


def test_the_directory_s_line_is_as_long_as_we_say() -> None:
    assert CENTRAL.size == 46
