"""Plain bytes of encrypted images while a delta is made: where they lie, and who could open them."""

import os
import stat
from pathlib import Path

import pytest

from firmware.encryption.chunked import Encryption
from firmware.encryption.content_key import ContentKey
from firmware.errors import RefusedError
from server.campaigns.private_deltas import Opener, Secrets, _plain, make_encrypted_delta

PLAIN = bytes(range(256)) * 1000
KEY = ContentKey.new()


def encrypted(path: Path, data: bytes) -> Opener:
    encryption = Encryption(KEY)
    path.write_bytes(b"".join(encryption.encrypt([data])))
    return Opener(key=KEY.reveal().hex(), salt=encryption.salt, length=len(data))


def test_plain_bytes_lie_in_a_file_without_a_name_that_nobody_else_may_open(tmp_path: Path) -> None:
    image, folder = tmp_path / "image", tmp_path / "folder"
    folder.mkdir()
    opener = encrypted(image, PLAIN)
    with _plain(image, opener, folder) as path:
        assert path.read_bytes() == PLAIN, "other bytes"
        facts = path.stat()
        assert (facts.st_nlink, stat.S_IMODE(facts.st_mode), facts.st_uid) == (0, 0o600, os.getuid())
        assert list(folder.iterdir()) == []
    assert not path.exists() or path.stat().st_ino != facts.st_ino


def test_an_image_that_does_not_open_makes_no_delta_and_leaves_nothing(tmp_path: Path) -> None:
    image, folder = tmp_path / "image", tmp_path / "folder"
    folder.mkdir()
    opener = encrypted(image, PLAIN)
    data = image.read_bytes()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RefusedError) as caught:
        make_encrypted_delta(image, image, folder / "out", Secrets(source=opener, target=opener), level=1)
    assert caught.value.kind == "cannot-decrypt"
    assert list(folder.iterdir()) == []


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    opener = encrypted(tmp_path / "image", PLAIN)
    assert opener.key not in repr(Secrets(source=None, target=opener))
