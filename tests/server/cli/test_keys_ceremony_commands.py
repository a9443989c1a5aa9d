"""`otaria keys` as people type it: the ceremony with a token and encrypted files, the question before a change, refusals."""

import json

import pytest

from firmware.catalogue.publish import Repository
from tests.keys_desk import ROLES, Desk, ceremony
from tests.keys_desk import desk as desk


def test_a_ceremony_over_three_machines(desk: Desk) -> None:
    first = ceremony(desk)
    assert not list((desk.acme / "keys" / "offline").glob("root*"))
    assert desk.run("show", first) == 0
    assert "root (the new root): needs 2, signed by nobody yet" in desk.out
    one, two = desk.dir / "one.json", desk.dir / "two.json"
    assert desk.run("sign", first, "--key", f"file:{desk.dir}/alice.pem", "-o", one, "--yes") == 0, desk.err
    assert desk.run("apply", desk.acme, one, "--yes") == 1
    assert "root (the new root) has 1 of 2 signatures" in desk.err
    assert desk.run("show", desk.acme) == 1
    assert desk.json("sign", first, "--key", f"file:{desk.dir}/bob.pem", "-o", two, "--yes")["signed"].keys() == {
        "root"
    }
    assert desk.json("apply", desk.acme, one, two, "--yes")["changed"] == ["root", "targets", "product-pump"]
    facts = desk.json("show", desk.acme)
    roles = {role["role"]: role for role in facts["roles"]}
    assert [key["name"] for key in roles["root"]["keys"]] == list(ROLES)
    assert not any(key["here"] for key in roles["root"]["keys"])
    assert len(facts["warnings"]) == 1
    assert "beside the online ones" in facts["warnings"][0]


def test_a_change_shows_what_it_does_and_asks(desk: Desk) -> None:
    assert desk.run("init", desk.acme, "--product", "pump") == 0
    before = desk.state()
    for answer in ("n\n", "", "\n"):
        desk.types(answer)
        assert desk.run("rotate", "director", "--repository", desk.acme) == 1
        assert "+   director epoch 2" in desk.out
        assert "-   director epoch 1" in desk.out
        assert "Put this in force? [y/N]" in desk.out
        assert "aborted" in desk.err
        assert desk.state() == before
    desk.types("y\n")
    assert desk.run("rotate", "director", "--repository", desk.acme) == 0, desk.err
    assert "In force" in desk.out
    assert Repository.workspace(desk.acme).director_epoch() == 2
    assert (desk.acme / "keys" / "online" / "director-2.pem").exists()
    facts = desk.json("rotate", "director", "--repository", desk.acme, "--yes")
    assert {"mark": "+", "text": "  director epoch 3"} in facts["changes"]


def test_a_change_that_fails_leaves_no_key_behind(desk: Desk) -> None:
    ceremony(desk)
    desk.run("sign", desk.acme / "first.proposal.json", "--key", f"file:{desk.dir}/alice.pem", "--yes")
    desk.run("sign", desk.acme / "first.proposal.json", "--key", f"file:{desk.dir}/bob.pem", "--yes")
    assert desk.run("apply", desk.acme, desk.acme / "first.proposal.json", "--yes") == 0, desk.err
    before = desk.state()
    assert desk.run("rotate", "timestamp", "--repository", desk.acme, "--yes") == 1
    assert "signatures-missing" in desk.err
    assert desk.state() == before
    keys = [word for name in ("alice", "carol") for word in ("--key", f"file:{desk.dir / name}.pem")]
    assert desk.run("rotate", "timestamp", "--repository", desk.acme, *keys, "--yes") == 0, desk.err
    assert Repository.workspace(desk.acme).root().version == 2


def test_a_signers_own_copy_says_whether_the_before_is_true(desk: Desk) -> None:
    """A proposal may lie about what it replaces; `--against` compares it with what the signer has."""
    assert desk.run("init", desk.acme, "--product", "pump") == 0
    proposal, root = desk.dir / "p.json", f"file:{desk.acme}/keys/offline/root-1.pem"
    assert desk.run("renew", "root", "--repository", desk.acme, "-o", proposal, "--yes") == 0
    honest = proposal.read_bytes()
    value = json.loads(honest)
    value["base"]["root"]["signed"]["roles"]["root"]["threshold"] = 1
    lie = json.dumps(value).encode()
    for copy in (desk.acme, desk.acme / "metadata"):
        proposal.write_bytes(lie)
        assert desk.run("sign", proposal, "--key", root, "--against", copy, "--yes") == 1
        assert "other-base" in desk.err
        proposal.write_bytes(honest)
        assert desk.run("sign", proposal, "--key", root, "--against", copy, "--yes") == 0, desk.err
    proposal.write_bytes(lie)
    assert desk.run("sign", proposal, "--key", root, "--yes") == 0
    assert "Only --against DIR checks what this replaces" in desk.err


def test_signing_asks_first_and_names_keys_that_are_not_wanted(desk: Desk) -> None:
    first = ceremony(desk)
    before = first.read_bytes()
    desk.types("n\n")
    assert desk.run("sign", first, "--key", f"file:{desk.dir}/alice.pem") == 1
    assert "Sign this? [y/N]" in desk.out
    assert desk.run("generate", desk.dir / "eve.pem", "--scheme", "ed25519") == 0
    assert desk.run("sign", first, "--key", f"file:{desk.dir}/eve.pem", "--yes") == 1
    assert "key-not-wanted" in desk.err
    assert first.read_bytes() == before


def test_a_passphrase_is_never_an_option_and_its_absence_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ceremony(desk)
    monkeypatch.delenv("OTARIA_KEY_PASSPHRASE")
    desk.types("")
    assert desk.run("sign", first, "--key", f"file:{desk.dir}/alice.pem", "--yes") == 1
    assert "key-locked" in desk.err
    assert desk.run("sign", first, "--key", f"file:{desk.dir}/alice.pem", "--passphrase", "x", "--yes") == 2
    assert desk.run("generate", desk.dir / "x.pem", "--encrypt") == 1
    assert not (desk.dir / "x.pem").exists()


def test_wrong_use(desk: Desk) -> None:
    assert desk.run("generate", desk.dir / "alice.key") == 2
    assert desk.run("public", "file:x", "-o", desk.dir / "x.json") == 2
    assert desk.run("init", desk.acme, "--product", "pump", "--public", "root") == 2
    assert desk.run("init", desk.acme, "--product", "pump", "--root-threshold", "4") == 1
    assert "bad-threshold" in desk.err
    assert desk.run("generate", desk.dir / "a.pem") == 0
    assert desk.run("generate", desk.dir / "a.pem") == 1
    public = f"{desk.dir}/a.key.json"
    assert desk.run("init", desk.acme, "--product", "pump", "--public", f"mirror={public}") == 1
    assert "unknown-role" in desk.err
    assert (
        desk.run(
            "init", desk.acme, "--product", "pump", *("--public", f"root={public}", "--public", f"targets={public}")
        )
        == 1
    )
    assert not desk.acme.exists()
    (desk.dir / "no.json").write_text("{}")
    assert desk.run("sign", desk.dir / "no.json", "--key", f"file:{desk.dir}/a.pem") == 1
    assert "not-a-proposal" in desk.err


def test_ed25519_and_other_thresholds(desk: Desk) -> None:
    facts = desk.json(
        "init", desk.acme, "--product", "pump", "--root-keys", 5, "--root-threshold", 3, "--scheme", "ed25519"
    )
    root = facts["roles"][0]
    assert (root["threshold"], len(root["keys"]), {key["scheme"] for key in root["keys"]}) == (3, 5, {"ed25519"})
    assert desk.run("public", f"file:{desk.acme}/keys/offline/root-1.pem", "-o", desk.dir / "one.key.json") == 0
    assert desk.run("remove", "root", "root-5", "--threshold", 2, "--repository", desk.acme, "--yes") == 0, desk.err
    assert desk.run("add", "product-valve", "--repository", desk.acme, "--yes") == 0, desk.err
    assert desk.json("show", desk.acme)["products"] == ["pump", "valve"]


def test_encrypted_keys_in_the_workspace(desk: Desk) -> None:
    assert desk.run("init", desk.acme, "--product", "pump", "--encrypt") == 0, desk.err
    for path in (desk.acme / "keys").rglob("*.pem"):
        assert (b"ENCRYPTED" in path.read_bytes()) == (path.parent.name == "offline")
    assert desk.run("renew", "root", "targets", "product-pump", "--repository", desk.acme, "--yes") == 0, desk.err
