"""Everything that can go wrong in a ceremony by mistake or by malice: each ends in a sentence, and nothing is half-written."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.store import FileStore
from tests.keys_desk import Desk, ceremony
from tests.keys_desk import desk as desk


def begun(desk: Desk) -> None:
    """A catalogue in force, root keys with Alice, Bob and Carol, two of whom have to sign."""
    first = ceremony(desk)
    signed(desk, first, "alice", "bob")
    assert desk.run("apply", desk.acme, first, "--yes") == 0, desk.err


def signed(desk: Desk, proposal: Path, *names: str) -> Path:
    for name in names:
        assert desk.run("sign", proposal, "--key", f"file:{desk.dir / name}.pem", "--yes") == 0, desk.err
    return proposal


def proposed(desk: Desk, *change: object, to: str = "change.json") -> Path:
    path = desk.dir / to
    assert desk.run(*change, "--repository", desk.acme, "-o", path, "--yes") == 0, desk.err
    return path


def new_key(desk: Desk, name: str, *more: object) -> Path:
    assert desk.run("generate", desk.dir / f"{name}.pem", *more) == 0, desk.err
    return desk.dir / f"{name}.key.json"


def device_agrees(desk: Desk) -> dict[str, int]:
    """A device that trusts the first root refreshes; the versions it ends with."""
    metadata, store = desk.acme / "metadata", FileStore(desk.dir / f"device-{time.monotonic_ns()}")

    def fetch(name: str, max_bytes: int) -> bytes | None:
        path = metadata / name
        return path.read_bytes()[: max_bytes + 1] if path.is_file() else None

    CatalogueClient.initialise(store, (metadata / "1.root.json").read_bytes())
    client = CatalogueClient(store, fetch)
    client.refresh(time.time())
    return client.versions()


# Mistakes of a signer


def test_signing_twice_counts_once(desk: Desk) -> None:
    first = ceremony(desk)
    signed(desk, first, "alice", "alice")
    assert "root (the new root) has 1 of 2 signatures" in desk.out
    copy = desk.dir / "copy.json"
    copy.write_bytes(first.read_bytes())
    before = desk.state()
    assert desk.run("apply", desk.acme, first, copy, first, "--yes") == 1
    assert "has 1 of 2 signatures" in desk.err
    assert "otaria keys sign" in desk.err
    assert desk.state() == before


def test_a_wrong_passphrase_signs_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ceremony(desk)
    before = first.read_bytes()
    monkeypatch.setenv("OTARIA_KEY_PASSPHRASE", "wrong")
    assert desk.run("sign", first, "--key", f"file:{desk.dir}/alice.pem", "--yes") == 1
    assert "The passphrase does not open" in desk.err
    assert first.read_bytes() == before


def test_an_output_is_never_written_over(desk: Desk) -> None:
    """It may be the private key, or the copy that somebody else has signed already."""
    begun(desk)
    change = proposed(desk, "renew", "root")
    signed(desk, change, "alice")
    for victim in (change, desk.dir / "bob.pem"):
        before = victim.read_bytes()
        commands: list[tuple[object, ...]] = [
            ("renew", "root", "--repository", desk.acme, "-o", victim, "--yes"),
            ("rotate", "timestamp", "--repository", desk.acme, "-o", victim, "--yes"),
            ("sign", first_of(desk), "--key", f"file:{desk.dir}/bob.pem", "-o", victim, "--yes"),
        ]
        for command in commands:
            assert desk.run(*command) == 1
            assert "exists already and is not written over" in desk.err
            assert victim.read_bytes() == before
    assert desk.run("public", f"file:{desk.dir}/bob.pem", "-o", desk.dir / "alice.key.json") == 1
    assert "exists already" in desk.err
    assert sorted(path.name for path in (desk.acme / "keys" / "online").iterdir()) == [
        "deltas.pem",
        "director.pem",
        "snapshot.pem",
        "timestamp.pem",
    ]


def first_of(desk: Desk) -> Path:
    return desk.acme / "first.proposal.json"


def test_signing_what_has_expired_is_warned_of_and_it_never_comes_into_force(desk: Desk) -> None:
    begun(desk)
    change = proposed(desk, "renew", "root")
    value = json.loads(change.read_bytes())
    value["roles"]["root"]["signed"]["expires"] = "2020-01-01T00:00:00Z"
    change.write_text(json.dumps(value))
    signed(desk, change, "alice")
    assert "the proposed root has expired" in desk.err
    assert "expires 2020-01-01" in desk.out
    signed(desk, change, "bob")
    before = desk.state()
    assert desk.run("apply", desk.acme, change, "--yes") == 1
    assert "root expired" in desk.err
    assert desk.state() == before


# Proposals that lie


def spoilt(change: Path, spoil: Callable[[Any], object]) -> Path:
    value = json.loads(change.read_bytes())
    spoil(value)
    change.write_text(json.dumps(value))
    return change


def test_a_key_under_another_ones_id_is_refused_before_anybody_signs(desk: Desk) -> None:
    """The signers compare ids by telephone. Whoever makes the proposal puts their own key under Bob's name and id."""
    first = ceremony(desk)
    mine = CryptoSigner.generate_ecdsa().public_key
    value = json.loads(first.read_bytes())
    keys = value["roles"]["root"]["signed"]["keys"]
    bob = next(keyid for keyid, key in keys.items() if key.get("x-otaria-name") == "bob")
    keys[bob]["keyval"] = mine.keyval
    first.write_text(json.dumps(value))
    before = first.read_bytes()
    for command in (("sign", first, "--key", f"file:{desk.dir}/alice.pem", "--yes"), ("show", first)):
        assert desk.run(*command) == 1
        assert "does not belong to it" in desk.err
        assert "Do not sign this" in desk.err
    assert first.read_bytes() == before


@pytest.mark.parametrize("key", [{"keytype": "lattice", "scheme": "l", "keyval": {"public": "0"}}, "broken"])
def test_a_key_that_cannot_be_read_is_refused_in_a_proposal(desk: Desk, key: Any) -> None:
    begun(desk)
    broken = {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": "broken"}}
    change = proposed(desk, "renew", "root")
    spoilt(
        change, lambda v: v["roles"]["root"]["signed"]["keys"].update({"a" * 64: broken if key == "broken" else key})
    )
    assert desk.run("sign", change, "--key", f"file:{desk.dir}/alice.pem", "--yes") == 1
    assert "(key-mismatch)" in desk.err


@pytest.mark.parametrize("title", ["renew root\x1b[2J\x1b[H", "renew\nroot", "renew \u202etoor", 7, None])
def test_a_title_that_could_hide_lines_is_refused(desk: Desk, title: Any) -> None:
    begun(desk)
    change = spoilt(proposed(desk, "renew", "root"), lambda value: value.update(title=title))
    assert desk.run("sign", change, "--key", f"file:{desk.dir}/alice.pem", "--yes") == 1
    assert "(not-a-proposal)" in desk.err


def test_what_is_signed_is_shown_to_the_last_field(desk: Desk) -> None:
    """Names that would move the cursor, hash prefixes in place of paths, unknown fields, and what a file's entry carries."""
    begun(desk)
    change = proposed(desk, "renew", "targets", "product-pump")

    def spoil(value: Any) -> None:
        targets = value["roles"]["targets"]["signed"]
        role = targets["delegations"]["roles"][0]
        del role["paths"]
        role["path_hash_prefixes"] = ["0", "f"]
        targets["x-more\x1b[1A"] = {"deep": 1}
        entry = {"length": 1, "hashes": {"sha256": "a" * 64}, "custom": {"hardware": ["any"]}}
        value["roles"]["product-pump"]["signed"]["targets"] = {"releases/\u202egmi": entry}

    assert desk.run("show", spoilt(change, spoil)) == 0
    assert "over paths whose sha256 begins with 0, paths whose sha256 begins with f" in desk.out
    assert '+   x-more\\x1b[1A: {"deep": 1}' in desk.out
    assert "+   file releases/\\u202egmi, 1 bytes" in desk.out
    assert '{"custom": {"hardware": ["any"]}}' in desk.out
    assert "\x1b" not in desk.out
    assert "\u202e" not in desk.out


def test_a_before_with_a_key_that_is_not_given_is_shown(desk: Desk) -> None:
    begun(desk)
    change = proposed(desk, "renew", "root")
    spoilt(change, lambda value: value["base"]["root"]["signed"]["roles"]["root"]["keyids"].append("f" * 64))
    assert desk.run("show", change) == 0
    assert f"-     root key {'f' * 64} (unknown)" in desk.out


def test_a_changed_proposal_loses_its_signatures(desk: Desk) -> None:
    begun(desk)
    change = signed(desk, proposed(desk, "renew", "root"), "alice", "bob")
    spoilt(change, lambda value: value["roles"]["root"]["signed"]["roles"]["root"].update(threshold=1))
    before = desk.state()
    assert desk.run("apply", desk.acme, change, "--yes") == 1
    assert "root (the root before) has 0 of 2 signatures" in desk.err
    assert desk.state() == before


# Changes that cannot be


def test_the_last_key_of_a_role_is_not_removed(desk: Desk) -> None:
    begun(desk)
    keyid = desk.json("show", desk.acme)["roles"][1]["keys"][0]["keyid"]
    assert desk.run("remove", "targets", keyid, "--repository", desk.acme, "-o", desk.dir / "x.json", "--yes") == 1
    assert "targets has no other key; `otaria keys rotate targets`" in desk.err
    assert not (desk.dir / "x.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("add", "root", "--threshold", "5"), "root would need 5 of 4 keys"),
        (("remove", "root", "carol", "--threshold", "3"), "root would need 3 of 2 keys"),
        (("add", "director", "--threshold", "2"), "its threshold stays 1"),
        (("rotate", "root", "nobody"), "nobody means 0 keys of root"),
        (("rotate", "root"), "root has 3 keys; say which one"),
        (("rotate", "nothing"), "There is no role nothing"),
    ],
)
def test_a_change_that_cannot_be_leaves_nothing_behind(desk: Desk, change: tuple[str, ...], said: str) -> None:
    begun(desk)
    before = desk.state()
    assert desk.run(*change, "--repository", desk.acme, "-o", desk.dir / "x.json", "--yes") == 1
    assert said in desk.err
    assert desk.state() == before
    assert not (desk.dir / "x.json").exists()


@pytest.mark.parametrize("command", ["rotate", "add", "remove", "renew", "bins", "apply", "show"])
def test_a_catalogue_that_is_not_there_is_named_and_not_begun(desk: Desk, command: str) -> None:
    first = ceremony(desk)
    nowhere = desk.dir / "nowhere"
    key = new_key(desk, "dora")
    commands: dict[str, tuple[object, ...]] = {
        "rotate": ("rotate", "timestamp", "--repository", nowhere, "--yes"),
        "add": ("add", "root", "--public", key, "--repository", nowhere, "--yes"),
        "remove": ("remove", "root", "alice", "--repository", nowhere, "--yes"),
        "renew": ("renew", "root", "--repository", nowhere, "--yes"),
        "bins": ("bins", "pump", "--bits", 2, "--repository", nowhere, "--yes"),
        "apply": ("apply", nowhere, first, "--yes"),
        "show": ("show", desk.dir),
    }
    assert desk.run(*commands[command]) == 1
    assert "otaria keys init" in desk.err
    assert not nowhere.exists()


def test_a_change_that_is_not_signed_enough_says_how_to_go_on_and_takes_its_new_key_back(desk: Desk) -> None:
    begun(desk)
    before = desk.state()
    assert desk.run("rotate", "timestamp", "--repository", desk.acme, "--yes") == 1
    assert "(`-o FILE`, then `otaria keys sign`)" in desk.err
    assert desk.state() == before


def test_of_two_changes_at_once_the_second_is_made_again(desk: Desk) -> None:
    """Two root keys go at the same time, each by a proposal of its own: the second one does not undo the first."""
    begun(desk)
    dora, erin = new_key(desk, "dora", "--scheme", "ed25519"), new_key(desk, "erin")
    one = signed(desk, proposed(desk, "rotate", "root", "carol", "--public", dora), "alice", "bob")
    two_change = ("rotate", "root", "bob", "--public", erin)
    two = signed(desk, proposed(desk, *two_change, to="two.json"), "alice", "carol", "erin")
    assert desk.run("apply", desk.acme, one, two, "--yes") == 1
    assert "not copies of one proposal" in desk.err
    assert desk.run("apply", desk.acme, one, "--yes") == 0, desk.err
    before = desk.state()
    assert desk.run("apply", desk.acme, two, "--yes") == 1
    assert "Make and sign a new proposal" in desk.err
    assert desk.state() == before
    again = signed(desk, proposed(desk, *two_change, to="again.json"), "alice", "dora", "erin")
    assert desk.run("apply", desk.acme, again, "--yes") == 0, desk.err
    assert device_agrees(desk)["root"] == 3


def test_keys_of_both_schemes_sign_one_root(desk: Desk) -> None:
    begun(desk)
    edna = new_key(desk, "edna", "--scheme", "ed25519", "--encrypt")
    change = proposed(desk, "add", "root", "--public", edna, "--threshold", 3)
    signed(desk, change, "edna")
    assert "root (the root before) has 0 of 2" in desk.out
    signed(desk, change, "alice", "carol")
    assert desk.run("apply", desk.acme, change, "--yes") == 0, desk.err
    assert device_agrees(desk)["root"] == 2
    schemes = {key["scheme"] for key in desk.json("show", desk.acme)["roles"][0]["keys"]}
    assert schemes == {"ed25519", "ecdsa-sha2-nistp256"}
    assert load_pem_private_key((desk.dir / "edna.pem").read_bytes(), password=b"correct horse")


def test_a_missing_online_key_stops_it_before_anything_is_written(desk: Desk) -> None:
    begun(desk)
    change = signed(desk, proposed(desk, "renew", "root"), "alice", "bob")
    key = desk.acme / "keys" / "online" / "timestamp.pem"
    kept = key.read_bytes()
    key.unlink()
    before = desk.state()
    assert desk.run("apply", desk.acme, change, "--yes") == 1
    assert "sign it on the machine that holds them" in desk.err
    assert desk.state() == before
    key.write_bytes(kept)
    assert desk.run("apply", desk.acme, change, "--yes") == 0, desk.err


def test_a_metadata_file_that_is_gone_is_named(desk: Desk) -> None:
    begun(desk)
    (desk.acme / "metadata" / "1.snapshot.json").unlink()
    assert desk.run("show", desk.acme) == 1
    assert "There is no 1.snapshot.json" in desk.err
    assert "copy it back from the server" in desk.err


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
@pytest.mark.parametrize("command", ["sign", "apply", "rotate"])
def test_anything_but_yes_changes_nothing(desk: Desk, answer: str, command: str) -> None:
    begun(desk)
    change = signed(desk, proposed(desk, "renew", "root"), "alice", "bob")
    before, proposal = desk.state(), change.read_bytes()
    commands: dict[str, tuple[object, ...]] = {
        "sign": ("sign", change, "--key", f"file:{desk.dir}/carol.pem"),
        "apply": ("apply", desk.acme, change),
        "rotate": ("rotate", "timestamp", "--repository", desk.acme, "-o", desk.dir / "x.json"),
    }
    desk.types(answer)
    assert desk.run(*commands[command]) == 1
    assert "root key alice" in desk.out
    assert "nothing was changed" in desk.err
    assert (desk.state(), change.read_bytes()) == (before, proposal)
    assert not (desk.dir / "x.json").exists()


def test_killed_in_the_middle_it_is_done_again(desk: Desk) -> None:
    """kill -9 as soon as the first file changes: devices find a whole catalogue, old or new, and the same command ends it."""
    begun(desk)
    change = signed(desk, proposed(desk, "renew", "root", "targets"), "alice", "bob")
    metadata = desk.acme / "metadata"
    held = {path.name for path in metadata.iterdir()}
    command = [
        sys.executable,
        "-c",
        "from server.cli import main; main()",
        "keys",
        "apply",
        str(desk.acme),
        str(change),
    ]
    victim = subprocess.Popen([*command, "--yes"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while victim.poll() is None and time.monotonic() < deadline:
        if {path.name for path in metadata.iterdir()} != held:
            break
        time.sleep(0.0005)
    victim.kill()
    victim.communicate(timeout=30)
    assert {path.name for path in metadata.iterdir()} != held
    assert device_agrees(desk)["targets"] in (1, 2)
    (metadata / ".9.snapshot.json.left.part").write_bytes(b"of a process that was killed")
    assert desk.run("apply", desk.acme, change, "--yes") == 0, desk.err
    assert desk.run("apply", desk.acme, change, "--yes") == 0, desk.err
    assert "in force already" in desk.out
    assert device_agrees(desk) == {"root": 2, "targets": 2, "snapshot": 2, "timestamp": 2}
    assert not list(metadata.glob(".*"))
