"""Private keys by URI: plain and encrypted files, a PKCS#11 token (SoftHSM 2), clouds whose library is not installed."""

import importlib.util
import json
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, VaultSigner
from tuf.api.metadata import Metadata, Role, Targets

from firmware.catalogue.keyfiles import Keyring, generate
from firmware.catalogue.publish import sign
from firmware.catalogue.signers import NAME, key_file, key_name, open_signer, public_key, read_key_file
from firmware.errors import RefusedError
from server.cli import run
from tests.softhsm import PIN, soft_token


def kind_of(source: str, secret: str | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        open_signer(source, (lambda _kind, _of: secret)) if secret is not None else open_signer(source)
    return caught.value.kind


@pytest.mark.parametrize("scheme", ["ecdsa", "ed25519"])
@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_key_in_a_file_signs(tmp_path: Path, scheme: str, passphrase: str | None) -> None:
    path = tmp_path / "alice.pem"
    made = generate(path, scheme=scheme, passphrase=passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)
    signer = open_signer(
        f"file:{path}", lambda kind, of: passphrase if kind == "passphrase" and str(path) in of else ""
    )
    assert signer.public_key.keyid == made.public_key.keyid
    made.public_key.verify_signature(signer.sign(b"words"), b"words")
    with pytest.raises(RefusedError, match="never overwritten"):
        generate(path)


def test_whose_an_encrypted_key_is_can_be_told_without_its_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTARIA_KEY_PASSPHRASE", raising=False)
    keyid = generate(tmp_path / "alice.pem", passphrase="correct horse").public_key.keyid
    ring = Keyring([tmp_path])
    assert ring.holds(keyid)
    assert ring.held(Role([keyid], 1)) == [keyid]
    with pytest.raises(RefusedError, match="OTARIA_KEY_PASSPHRASE") as caught:
        ring.enough(Role([keyid], 1), "root")
    assert caught.value.kind == "key-locked"
    monkeypatch.setenv("OTARIA_KEY_PASSPHRASE", "correct horse")
    assert ring.enough(Role([keyid], 1), "root")
    assert kind_of(f"file:{tmp_path / 'alice.pem'}", "wrong") == "key-locked"


def test_a_key_file_hands_on_the_public_half_and_says_where_the_private_one_is(tmp_path: Path) -> None:
    signer = generate(tmp_path / "alice.pem")
    file = tmp_path / "alice.key.json"
    file.write_bytes(key_file(signer.public_key, uri="file:alice.pem", name="alice"))
    key, uri = read_key_file(file)
    assert (key.keyid, uri, key_name(key)) == (signer.public_key.keyid, "file:alice.pem", "alice")
    assert open_signer(str(file)).public_key.keyid == key.keyid
    assert b"PRIVATE" not in file.read_bytes()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(file, moved)
    assert not Keyring([moved]).holds(key.keyid)


def test_key_files_that_lie_are_refused(tmp_path: Path) -> None:
    one, two = generate(tmp_path / "one.pem"), generate(tmp_path / "two.pem")
    file = tmp_path / "x.key.json"
    file.write_bytes(key_file(one.public_key, uri="file:two.pem"))
    assert kind_of(str(file)) == "key-mismatch"
    value = json.loads(key_file(one.public_key))
    file.write_text(json.dumps({**value, "keyid": two.public_key.keyid}))
    assert kind_of(str(file)) == "key-mismatch"
    for text in ("", "[]", "{}", '{"keyid":"a","key":{}}', '{"keyid":1,"key":3}', "x" * 70_000):
        file.write_text(text)
        assert kind_of(str(file)) == "key-unreadable"
    assert kind_of("nothing") == kind_of("file2:/x") == kind_of(f"file:{tmp_path}/none.pem") == "key-unreadable"
    unprintable = json.loads(key_file(one.public_key, name="a\x1b[31m"))
    assert unprintable["key"][NAME]
    file.write_text(json.dumps(unprintable))
    assert key_name(read_key_file(file)[0]) == ""


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_as_a_key_file_are_a_key_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("k")
    for name, source in (("a.key.json", "{}/a.key.json"), ("a.pem", "file:{}/a.pem")):
        (folder / name).write_bytes(data)
        with pytest.raises(RefusedError):
            open_signer(source.format(folder), lambda _kind, _of: "x")


CLOUDS = {
    "awskms": ("awskms:arn:aws:kms:eu-central-1:1:key/x", "boto3", "securesystemslib[awskms]"),
    "gcpkms": (
        "gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
        "google.cloud.kms",
        "securesystemslib[gcpkms]",
    ),
    "azurekms": ("azurekms://vault.vault.azure.net/keys/root/1", "azure.keyvault", "securesystemslib[azurekms]"),
    "hv": ("hv:root/1", "hvac", "securesystemslib[vault]"),
}
NOT_FOR_DEVICES = {"gnupg": "gnupg:ABCDEF0123456789", "tkey": "tkey:?digest=abc"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_whose_library_is_missing_is_named(
    tmp_path: Path, cloud: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the function, by a key file, and as a person sees it: a sentence that says what to install, and exit code 1."""
    uri, library, extra = CLOUDS[cloud]
    if importlib.util.find_spec(library.partition(".")[0]) is not None:
        pytest.skip(f"{library} is installed here")
    with pytest.raises(RefusedError, match=rf"pip install '{re.escape(extra)}'") as caught:
        public_key(uri)
    assert caught.value.kind == "signer-library-missing"
    file = tmp_path / "cloud.key.json"
    file.write_bytes(key_file(CryptoSigner.generate_ecdsa().public_key, uri=uri))
    assert kind_of(str(file)) == "signer-library-missing"
    assert kind_of(uri) == "signer-library-missing"
    assert run(["keys", "public", uri, "-o", str(tmp_path / "new.key.json")]) == 1
    assert capsys.readouterr().err.strip().endswith(f"{uri} needs: pip install '{extra}'. (signer-library-missing)")
    assert not (tmp_path / "new.key.json").exists()


def test_what_our_library_offers_besides_is_refused_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """GnuPG's signatures and a TKey's are none that a device counts; nobody should find out after the ceremony."""
    known = {"file2", "hsm", *CLOUDS, *NOT_FOR_DEVICES}
    assert set(SIGNER_FOR_URI_SCHEME) == known, "securesystemslib has a new scheme: decide what becomes of it"
    for uri in (*NOT_FOR_DEVICES.values(), "sigstore:me", "envvar:KEY", "nonsense"):
        assert kind_of(uri) == "key-unreadable"
        assert run(["keys", "public", uri, "-o", "nowhere/x.key.json"]) == 1
        said = capsys.readouterr().err
        assert f"{uri} names no key that can sign here; give file:PATH, hsm:KEYID?label=TOKEN, an awskms:" in said


def test_a_vaults_newest_key_is_the_one_that_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """HashiCorp Vault signs with the newest version, so a URI that names an older one would make a key file that lies."""
    key = CryptoSigner.generate_ed25519().public_key
    monkeypatch.setattr(VaultSigner, "import_", lambda name: (f"hv:{name}/3", key))
    assert public_key("hv:root/3") == key
    with pytest.raises(RefusedError, match="not the newest version of that key; give hv:root/3"):
        public_key("hv:root/2")
    with pytest.raises(RefusedError, match="give hv:root/3"):
        public_key("hv:root")


# A PKCS#11 token


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SoftHSM token with a key pair that was made inside it; its URI."""
    with soft_token(tmp_path_factory.mktemp("softhsm"), "ceremony") as made, pytest.MonkeyPatch.context() as patch:
        import pkcs11
        from pkcs11.util.ec import encode_named_curve_parameters

        patch.setenv("PYKCS11LIB", made.module)
        patch.setenv("OTARIA_HSM_PIN", PIN)
        place = pkcs11.lib(made.module).get_token(token_label="ceremony")
        with place.open(rw=True, user_pin=PIN) as session:
            curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            domain = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
            domain.generate_keypair(store=True, id=b"\x02", label="root")
        yield "hsm:2?label=ceremony"


def test_a_token_signs_metadata_that_verifies(token: str, tmp_path: Path) -> None:
    signer = open_signer(token)
    assert signer.public_key.scheme == "ecdsa-sha2-nistp256"
    assert public_key(token).keyid == signer.public_key.keyid
    body = Targets(1)
    metadata = Metadata.from_bytes(sign(body, [signer]))
    signer.public_key.verify_signature(next(iter(metadata.signatures.values())), metadata.signed_bytes)
    (tmp_path / "director.key.json").write_bytes(key_file(signer.public_key, uri=token))
    ring = Keyring([tmp_path])
    role = Role([signer.public_key.keyid], 1)
    assert ring.enough(role, "director")[0].sign(b"words").keyid == signer.public_key.keyid


def test_a_token_that_cannot_sign_says_so(token: str) -> None:
    wrong = open_signer(token, lambda _kind, _of: "0000")
    with pytest.raises(RefusedError, match="the PIN is wrong") as caught:
        sign(Targets(1), [wrong])
    assert caught.value.kind == "signing-failed"
    assert kind_of("hsm:2?label=absent") == kind_of("hsm:7?label=ceremony") == "signer-unavailable"
    assert kind_of("hsm:x") == "key-unreadable"


def test_a_pin_is_needed_and_never_on_a_command_line(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTARIA_HSM_PIN")
    with pytest.raises(RefusedError, match="OTARIA_HSM_PIN") as caught:
        sign(Targets(1), [open_signer(token)])
    assert caught.value.kind == "key-locked"
