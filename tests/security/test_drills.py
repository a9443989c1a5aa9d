"""The drills of docs/howto/drills.md, step by step with the commands that stand there, to what devices then believe."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from firmware.catalogue.ceremony import initialise
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.publish import Repository
from firmware.catalogue.signers import open_file, read_key_file
from firmware.catalogue.store import FileStore
from firmware.errors import RefusedError
from firmware.manifest import Image, Manifest, describe, encode_manifest
from firmware.protocol.envelope import key_from_dict, open_envelope, seal
from firmware.protocol.order import Counter, Order
from server.cli import run

DAY = 86400
PASSPHRASE = "correct horse"
DRILLS = Path(__file__).parents[2] / "docs" / "howto" / "drills.md"


class People:
    """Alice, Bob and Carol hold root keys, the office the targets key, the maker releases; the server what is online.

    Everyone has a directory, and nothing but files that are named goes from one to another.
    """

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.dir, self._capsys = directory, capsys
        self.typed: list[str] = []
        self.out = self.err = ""
        for name in ("alice", "bob", "carol", "office", "maker"):
            self.make_key(name)
        publics = [f"root={self.of(name)}" for name in ("alice", "bob", "carol")]
        publics += [f"targets={self.of('office')}", f"product-pump={self.of('maker')}"]
        options = [word for public in publics for word in ("--public", public)]
        assert self.run("keys", "init", self.server, "--product", "pump", *options) == 0, self.err
        first = self.server / "first.proposal.json"
        signed = [self.signs(name, first) for name in ("alice", "bob", "office", "maker")]
        assert self.applies(*signed) == 0, self.err
        self.devices = 0

    @property
    def server(self) -> Path:
        return self.dir / "server"

    def of(self, name: str) -> Path:
        return self.dir / name / f"{name}.key.json"

    def make_key(self, name: str) -> None:
        (self.dir / name).mkdir()
        assert self.run("keys", "generate", self.dir / name / f"{name}.pem", "--encrypt") == 0, self.err

    def run(self, *arguments: object) -> int:
        code = run([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        self.typed.append(" ".join(str(argument) for argument in arguments[:3]))
        return code

    def proposes(self, *arguments: object) -> Path:
        path = self.server / f"{len(self.typed)}.proposal.json"
        assert self.run("keys", *arguments, "--repository", self.server, "-o", path, "--yes") == 0, self.err
        return path

    def signs(self, name: str, proposal: Path) -> Path:
        """The proposal goes to a person, who compares it with an own copy of the catalogue and signs, without the server."""
        own = self.dir / name / f"{len(self.typed)}.proposal.json"
        shutil.copy(proposal, own)
        against = []
        if (self.server / "metadata" / "timestamp.json").exists():
            shutil.copytree(self.server / "metadata", self.dir / name / "acme" / "metadata", dirs_exist_ok=True)
            against = ["--against", self.dir / name / "acme"]
        key = f"file:{self.dir / name / name}.pem"
        assert self.run("keys", "sign", own, "--key", key, *against, "--yes") == 0, self.err
        return own

    def applies(self, *signed: Path) -> int:
        return self.run("keys", "apply", self.server, *signed, "--yes")

    def device(self) -> CatalogueClient:
        """A device as it left the factory: it knows root 1."""
        self.devices += 1
        store = FileStore(self.dir / f"device-{self.devices}")
        CatalogueClient.initialise(store, (self.server / "metadata" / "1.root.json").read_bytes())
        return CatalogueClient(store, self.fetch)

    def fetch(self, name: str, max_bytes: int) -> bytes | None:
        path = self.server / "metadata" / name
        return path.read_bytes() if path.is_file() else None

    def as_server(self) -> Repository:
        return Repository(self.server / "metadata", online_keys=self.server / "keys" / "online")

    def release(self, name: str, version: str, counter: int) -> bytes:
        """Somebody who holds a product key signs a release on top of the published catalogue."""
        own = self.dir / name / "acme"
        shutil.copytree(self.server / "metadata", own / "metadata", dirs_exist_ok=True)
        shutil.copytree(self.dir / name, own / "keys" / "offline", ignore=lambda *_: ["acme"], dirs_exist_ok=True)
        hashes = describe([version.encode() * 100])
        image = Image(
            path=f"releases/pump/{version}/pump.img", length=hashes.length, sha256=hashes.sha256, windows=hashes.windows
        )
        manifest = Manifest(product="pump", version=version, counter=counter, hardware=["hw-a"], images=[image])
        return Repository.workspace(own).sign_release("pump", encode_manifest(manifest), now=time.time())

    def key(self, name: str) -> str:
        return read_key_file(self.of(name))[0].keyid


@pytest.fixture
def people(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> People:
    monkeypatch.setenv("OTARIA_KEY_PASSPHRASE", PASSPHRASE)
    return People(tmp_path, capsys)


def order(signer: Any, epoch: int, n: int) -> bytes:
    counter = Counter(epoch=epoch, n=n)
    message = Order(
        target="d1",
        agent="d1",
        hardware="hw-a",
        counter=counter,
        action="nothing",
        change_id="c",
        issued_at=0,
        expires_at=1,
    )
    return seal(message, "order", signer)


def believes(device: CatalogueClient, message: bytes) -> bool:
    keys = {keyid: key_from_dict(keyid, value) for keyid, value in device.director_keys().items()}
    try:
        return bool(open_envelope(message, "order", Order, keys))
    except RefusedError as error:
        if error.kind != "bad-signature":
            raise
        return False


def test_drill_director_key_stolen(people: People) -> None:
    """Tried: orders with a stolen director key, at the highest counter. Stopped by: `targets` names key and epoch."""
    stolen = open_file(people.server / "keys" / "online" / "director.pem")
    awake, asleep = people.device(), people.device()
    awake.refresh(time.time())
    forged = order(stolen, 1, (1 << 53) - 1)
    assert believes(awake, forged)

    proposal = people.proposes("rotate", "director")
    assert people.applies(proposal) == 1
    assert "targets has 0 of 1 signatures" in people.err
    assert people.applies(people.signs("office", proposal)) == 0, people.err
    assert "Restart `otaria serve`" in people.out

    server = people.as_server()
    first = order(server.director_signer(), server.director_epoch(), 1)
    for device in (awake, asleep):
        device.refresh(time.time())
        assert not believes(device, forged)
        assert believes(device, first)
        assert device.director_epoch() == 2  # (2, 1) is above whatever the thief signed in epoch 1


def test_drill_root_key_lost(people: People) -> None:
    """Tried: going on with two of three root keys. What holds: two are enough to put another in the third one's place."""
    known = people.device()
    known.refresh(time.time())
    people.make_key("dora")
    proposal = people.proposes("rotate", "root", "carol", "--public", people.of("dora"))
    assert people.applies(people.signs("alice", proposal)) == 1
    assert "root (the root before) has 1 of 2 signatures" in people.err
    signed = [people.signs(name, proposal) for name in ("alice", "bob")]
    assert people.applies(*signed) == 0, people.err

    root = people.as_server().root()
    assert (root.version, set(root.roles["root"].keyids)) == (
        2,
        {people.key(name) for name in ("alice", "bob", "dora")},
    )
    assert (people.server / "metadata" / "1.root.json").exists()
    for device in (known, people.device()):
        device.refresh(time.time())
        assert device.versions()["root"] == 2
    # Dora's key counts: with Alice alone she signs the next root.
    proposal = people.proposes("renew", "root")
    assert people.applies(*[people.signs(name, proposal) for name in ("alice", "dora")]) == 0, people.err


def test_drill_root_key_stolen(people: People) -> None:
    """Tried: a root of the thief's own, with one stolen key. Stopped by: the old root's threshold."""
    device = people.device()
    device.refresh(time.time())
    people.make_key("thief")
    shutil.copy(people.dir / "carol" / "carol.pem", people.dir / "thief" / "stolen.pem")
    forged = people.proposes("add", "root", "--public", people.of("thief"), "--threshold", "1")
    shutil.copy(people.dir / "thief" / "stolen.pem", people.dir / "thief" / "thief.pem")
    forged = people.signs("thief", forged)
    assert people.applies(forged) == 1
    assert "signatures-missing" in people.err
    body = json.loads(forged.read_bytes())["roles"]["root"]
    (people.server / "metadata" / "2.root.json").write_text(json.dumps(body))
    with pytest.raises(RefusedError, match="signed by 1 of the 2 keys"):
        device.refresh(time.time())
    (people.server / "metadata" / "2.root.json").unlink()

    people.make_key("dora")
    proposal = people.proposes("rotate", "root", "carol", "--public", people.of("dora"))
    assert people.applies(*[people.signs(name, proposal) for name in ("alice", "bob")]) == 0, people.err
    device.refresh(time.time())
    assert people.key("carol") not in people.as_server().root().keys
    # From now on the stolen key is nobody's, even together with another one.
    again = people.proposes("renew", "root")
    own = people.dir / "thief" / "again.json"
    shutil.copy(again, own)
    assert people.run("keys", "sign", own, "--key", f"file:{people.dir}/thief/stolen.pem", "--yes") == 1
    assert "key-not-wanted" in people.err
    assert people.applies(people.signs("alice", again)) == 1


def test_drill_online_signer_down_past_expiry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What happens: devices start nothing new and keep what they have; one command, or the server's return, heals it."""
    now = time.time()
    repository = initialise(tmp_path / "server", products=["pump"], now=now - 40 * DAY)
    metadata = tmp_path / "server" / "metadata"
    store = FileStore(tmp_path / "device")
    CatalogueClient.initialise(store, repository.root_bytes())

    def fetch(name: str, max_bytes: int) -> bytes | None:
        return (metadata / name).read_bytes() if (metadata / name).is_file() else None

    device = CatalogueClient(store, fetch)
    device.refresh(now - 39 * DAY)
    with pytest.raises(RefusedError, match="timestamp expired") as caught:
        device.refresh(now)
    assert caught.value.kind == "catalogue-expired"
    device.load_cached(now, allow_expired=True)
    assert device.director_epoch() == 1

    shutil.rmtree(tmp_path / "server" / "keys" / "offline")
    assert run(["keys", "show", str(tmp_path / "server")]) == 0
    assert "! timestamp has expired" in capsys.readouterr().out
    assert run(["keys", "renew", "timestamp", "--repository", str(tmp_path / "server")]) == 0
    assert "Renewed deltas, snapshot, timestamp." in capsys.readouterr().out
    device.refresh(now)
    assert run(["keys", "show", str(tmp_path / "server")]) == 0
    assert "!" not in capsys.readouterr().out


def test_drill_product_handed_to_a_new_owner(people: People) -> None:
    """Tried: the old owner goes on releasing. Stopped by: the delegation names the new owner's key; old releases stay."""
    server, now = people.as_server(), time.time()
    server.accept_product(people.release("maker", "1.0", 1), product="pump", now=now)
    device = people.device()
    device.refresh(now)
    before = device.file("releases/pump/1.0/pump.img")
    assert before is not None

    people.make_key("heir")
    proposal = people.proposes("rotate", "product-pump", "--public", people.of("heir"))
    assert people.applies(people.signs("office", proposal)) == 1
    assert "product-pump has 0 of 1 signatures" in people.err
    assert people.applies(people.signs("office", proposal), people.signs("heir", proposal)) == 0, people.err

    device.refresh(now)
    assert device.file("releases/pump/1.0/pump.img") == before
    with pytest.raises(RefusedError) as caught:
        people.release("maker", "2.0", 2)
    assert caught.value.kind == "key-missing"
    # Signed nevertheless, by hand: the server and devices refuse it.
    old = Keyring([people.dir / "maker"]).signer(people.key("maker"))
    body = server.targets("product-pump")
    body.version += 1
    late: Metadata[Any] = Metadata(body)
    late.sign(old)
    with pytest.raises(RefusedError, match="signed by 0 of the 1 keys"):
        server.accept_product(late.to_bytes(), product="pump", now=now)
    assert server.accept_product(people.release("heir", "2.0", 2), product="pump", now=now)
    device.refresh(now)
    assert device.file("releases/pump/2.0/pump.img")


@pytest.mark.parametrize(
    ("drill", "commands"),
    [
        ("Director key stolen", ["rotate director", "sign", "apply"]),
        ("One root key lost", ["generate", "rotate root carol --public", "sign", "apply"]),
        ("One root key stolen", ["generate", "rotate root carol --public", "sign", "apply"]),
        ("Online signer down past timestamp expiry", ["show", "renew timestamp"]),
        ("Product handed to a new owner", ["generate", "rotate product-pump --public", "sign", "apply"]),
    ],
)
def test_the_document_says_what_the_drill_types(drill: str, commands: list[str]) -> None:
    section = DRILLS.read_text().partition(f"## {drill}\n")[2].partition("\n## ")[0]
    places = [section.find(f"otaria keys {command}") for command in commands]
    assert -1 not in places
    assert places == sorted(places)
