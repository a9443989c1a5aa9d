"""The power goes before every change that a refresh makes to the store; what is left must load, and refresh again."""

from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from firmware.errors import OtariaError


def refresh_cut(lab: Any, files: dict[str, bytes], cut_before: int) -> dict[str, bytes] | None:
    """The store after a power cut before that change, rebuilt from bytes; None when the refresh had fewer changes."""
    store = lab.MemoryStore(files, cut_before=cut_before)
    try:
        lab.client(store).refresh(lab.NOW)
    except lab.PowerCutError:
        return store.files
    return None


def survivors(lab: Any, files: dict[str, bytes]) -> list[dict[str, bytes]]:
    out = []
    while (left := refresh_cut(lab, files, len(out))) is not None:
        out.append(left)
        assert len(out) < 50
    return out


def finished(lab: Any, files: dict[str, bytes]) -> dict[str, bytes]:
    store = lab.MemoryStore(files)
    lab.client(store).refresh(lab.NOW)
    return store.files


def test_a_first_refresh_can_be_cut_anywhere(lab: Any) -> None:
    lab.publish()
    files = dict(lab.store.files)
    left = survivors(lab, files)
    assert len(left) == 6
    for files_left in left:
        assert finished(lab, files_left) == finished(lab, files)


def test_a_later_refresh_can_be_cut_anywhere_and_the_director_stays_known(lab: Any) -> None:
    before = finished(lab, lab.store.files)
    lab.publish()
    targets = lab.repository.targets()
    targets.version += 1
    lab.serve_targets("targets", targets, "targets")
    left = survivors(lab, before)
    assert len(left) == 4
    for files_left in left:
        client = lab.client(lab.MemoryStore(files_left))
        client.load_cached(lab.NOW, allow_expired=True)
        assert client.director_epoch() == 1
        assert client.director_keys()
        assert finished(lab, files_left) == finished(lab, before)


@pytest.mark.parametrize("again", [False, True], ids=["once", "and once more while healing"])
def test_recovery_from_a_fast_forward_can_be_cut_anywhere(lab: Any, again: bool) -> None:
    """The honest key stays, so only the dropping heals; it must happen whenever the new root was kept."""
    honest = CryptoSigner.generate_ecdsa()
    lab.serve_root(lambda root: root.add_key(honest.public_key, "timestamp"), "root-1", "root-2")
    lab.serve_timestamp(lambda stamp: setattr(stamp, "version", 1 << 40), "timestamp", honest)
    before = finished(lab, lab.store.files)
    stolen = lab.repository.root().roles["timestamp"].keyids[0]
    lab.serve_root(lambda root: root.revoke_key(stolen, "timestamp"), "root-1", "root-2")
    lab.serve_honestly()
    lab.serve_timestamp(lambda stamp: None, honest)
    left = survivors(lab, before)
    assert len(left) > 5
    for files_left in left:
        for twice in survivors(lab, files_left) if again else [files_left]:
            assert "recovering" not in finished(lab, twice)


def test_a_cut_never_loses_the_protection_against_rollback(lab: Any) -> None:
    old = {path.name: path.read_bytes() for path in lab.metadata.iterdir()}
    lab.publish()
    before = finished(lab, lab.store.files)
    lab.publish("2.0", 2)
    left = survivors(lab, before)
    assert left
    lab.served.update(old)
    for files_left in left:
        with pytest.raises(OtariaError, match="went back"):
            lab.client(lab.MemoryStore(files_left)).refresh(lab.NOW)


def test_a_cut_before_the_new_root_was_kept_drops_nothing_yet(lab: Any) -> None:
    """Else whoever cuts the power and withholds that root could replay old timestamps."""
    old = (lab.metadata / "timestamp.json").read_bytes()
    lab.publish()
    before = finished(lab, lab.store.files)
    new = CryptoSigner.generate_ecdsa()

    def rotate(root: Any) -> None:
        root.revoke_key(root.roles["timestamp"].keyids[0], "timestamp")
        root.add_key(new.public_key, "timestamp")

    lab.serve_root(rotate, "root-1", "root-2")
    marked = refresh_cut(lab, before, 1)
    assert marked is not None
    assert marked == before | {"recovering": b"2"}
    lab.served.update({"2.root.json": None, "timestamp.json": old})
    with pytest.raises(OtariaError, match="went back"):
        lab.client(lab.MemoryStore(marked)).refresh(lab.NOW)
