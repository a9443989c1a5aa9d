"""Encrypted backups: whole for who may open them, closed to others, and every changed byte is found."""

import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from firmware.encryption.content_key import private_pem
from firmware.encryption.layout import CHUNK_BYTES, SEALED_BYTES
from firmware.errors import RefusedError
from server.backup.sealed import BEGINS, is_sealed, opened, sealing
from server.cli import run
from tests.server.backup.test_backup_archive import Place, made, place

__all__ = ["made", "place"]
OFFICE, OTHER = X25519PrivateKey.generate(), X25519PrivateKey.generate()
WORDS = "correct horse battery"
QUICK = 1 << 10


def nobody() -> str:
    raise AssertionError("asked for a passphrase though a key opens it")


def sealed(data: bytes, *, passphrase: str | None = None, step: int = 50_000) -> bytes:
    out = io.BytesIO()
    with sealing(out, passphrase=passphrase, recipients=[OFFICE.public_key()], n=QUICK) as file:
        for at in range(0, len(data), step):
            file.write(data[at : at + step])
    return out.getvalue()


def unsealed(data: bytes) -> bytes:
    return opened(io.BytesIO(data), passphrase=nobody, keys=[OFFICE]).read()


@given(
    st.integers(1, 3 * CHUNK_BYTES), st.sampled_from([1 << 10, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 18])
)
def test_what_goes_in_comes_out_and_is_not_seen_in_between(length: int, step: int) -> None:
    data = bytes(range(256)) * (length // 256 + 1)
    closed = sealed(data[:length], step=step)
    assert is_sealed(io.BytesIO(closed))
    assert unsealed(closed) == data[:length]
    assert data[:64] not in closed


@pytest.mark.parametrize("length", [CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_whole_chunks_end_where_they_end(length: int) -> None:
    assert unsealed(sealed(b"x" * length)) == b"x" * length


def test_a_passphrase_opens_it_as_well_as_a_key_and_another_does_not() -> None:
    closed = sealed(b"secret" * 100, passphrase=WORDS)
    assert unsealed(closed) == b"secret" * 100
    assert opened(io.BytesIO(closed), passphrase=lambda: WORDS, keys=[OTHER]).read() == b"secret" * 100
    for keys, words in (([OTHER], "wrong"), ([], "")):
        with pytest.raises(RefusedError) as caught:
            opened(io.BytesIO(closed), passphrase=lambda words=words: words, keys=keys)  # type: ignore[misc]
        assert caught.value.kind == "backup-locked"
    only_key = sealed(b"secret")
    with pytest.raises(RefusedError, match="--key"):
        opened(io.BytesIO(only_key), passphrase=nobody, keys=[OTHER])


def test_two_backups_share_no_key() -> None:
    first, second = (sealed(b"the same" * 1000, passphrase=WORDS) for _ in range(2))
    assert first.partition(b"\n")[2][:64] != second.partition(b"\n")[2][:64]


@pytest.mark.parametrize("where", ["head", "first", "last", "cut", "cut-at-a-chunk", "longer", "swapped", "head-only"])
def test_every_change_is_found(where: str) -> None:
    closed = sealed(bytes(3 * CHUNK_BYTES - 5))
    head, _, body = closed.partition(b"\n")
    changed = {
        "head": head.replace(b'"salt":"', b'"salt":"0', 1)[: len(head)] + b"\n" + body,
        "first": head + b"\n" + bytes([body[0] ^ 1]) + body[1:],
        "last": head + b"\n" + body[:-1] + bytes([body[-1] ^ 1]),
        "cut": closed[:-7],
        "cut-at-a-chunk": head + b"\n" + body[: 2 * SEALED_BYTES],
        "longer": closed + b"\0" * 64,
        "swapped": head
        + b"\n"
        + body[SEALED_BYTES : 2 * SEALED_BYTES]
        + body[:SEALED_BYTES]
        + body[2 * SEALED_BYTES :],
        "head-only": head + b"\n",
    }[where]
    assert changed != closed
    with pytest.raises(RefusedError) as caught:
        unsealed(changed)
    assert caught.value.kind in ("backup-damaged", "backup-locked")


def test_a_head_that_asks_for_a_gigabyte_of_scrypt_is_refused() -> None:
    closed = sealed(b"x", passphrase=WORDS).replace(b'"n":1024', b'"n":%d' % (1 << 30), 1)
    with pytest.raises(RefusedError) as caught:
        opened(io.BytesIO(closed), passphrase=lambda: WORDS)
    assert caught.value.kind == "backup-damaged"


@given(st.binary(max_size=300))
def test_no_head_breaks_it(data: bytes) -> None:
    with pytest.raises(RefusedError):
        opened(io.BytesIO(BEGINS + data), passphrase=lambda: WORDS, keys=[OFFICE]).read()


def test_a_server_is_backed_up_to_a_key_and_restored_with_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    public, private, other, file = (tmp_path / name for name in ("pub.pem", "key.pem", "other.pem", "monday.backup"))
    public.write_bytes(OFFICE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(private_pem(OFFICE))
    other.write_bytes(private_pem(OTHER))
    config, lines = ["--config", str(place.config)], place.lines()
    assert run(["backup", str(file), *config, "--to", str(private)]) == 1
    assert "no X25519 public key" in capsys.readouterr().err
    assert not file.exists()
    monkeypatch.setenv("OTARIA_BACKUP_PASSPHRASE", "short")
    assert run(["backup", str(file), *config, "--passphrase"]) == 1
    assert "12 characters" in capsys.readouterr().err
    monkeypatch.setenv("OTARIA_BACKUP_PASSPHRASE", WORDS)
    assert run(["backup", str(file), *config, "--to", str(public), "--passphrase"]) == 0
    assert "It is encrypted" in capsys.readouterr().out
    assert b"PRIVATE KEY" not in file.read_bytes()
    place.lose("state", "acme")
    monkeypatch.delenv("OTARIA_BACKUP_PASSPHRASE")
    for given_, why in (([], "OTARIA_BACKUP_PASSPHRASE"), (["--key", str(other)], "OTARIA_BACKUP_PASSPHRASE")):
        assert run(["restore", str(file), *config, *given_]) == 1
        assert why in capsys.readouterr().err
        assert not place.settings.state.exists()
    place.config.unlink()
    assert run(["restore", str(file), *config, "--key", str(private)]) == 0
    assert place.lines() == [*lines, "server-restored"]
    place.lose("state", "acme")
    monkeypatch.setenv("OTARIA_BACKUP_PASSPHRASE", WORDS)
    assert run(["restore", str(file), *config]) == 0
