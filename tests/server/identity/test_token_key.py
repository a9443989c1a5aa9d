"""A CA's key in a PKCS#11 token (SoftHSM 2): it stays there, may be unplugged, and a wrong PIN is not tried twice."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError, UnavailableError
from server.cli import run as run_command
from server.identity.authority import Authorities
from server.identity.authority_keys import forget_key, keys_at, load_authority_key
from server.identity.pkcs11_uri import Pkcs11Uri
from server.identity.rotation import Rotation
from server.identity.token_key import TokenKey
from tests.brokers import csr_of
from tests.softhsm import PIN, SoftToken, soft_token

NOW = 1_800_000_000.0
SIGNING = ec.ECDSA(hashes.SHA256())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftToken]:
    with soft_token(tmp_path_factory.mktemp("softhsm"), "fleet") as made:
        yield made


@pytest.fixture
def token(shared: SoftToken) -> Iterator[SoftToken]:
    yield shared
    shared.pin_file.write_text(PIN)


def opened(directory: Path, token: SoftToken) -> Authorities:
    return Authorities.open_or_create(directory, clock=lambda: NOW, fleet_keys=keys_at(token.uri))


def sign(authorities: Authorities) -> x509.Certificate:
    made = authorities.sign_agent(csr_of(ec.generate_private_key(ec.SECP256R1())), "d-abcdefghij")
    return x509.load_pem_x509_certificate(made.pem)


def key_of(token: SoftToken) -> TokenKey:
    key = keys_at(token.uri)()
    assert isinstance(key, TokenKey)
    return key


def objects_in(token: SoftToken, key: TokenKey) -> int:
    import pkcs11

    with pkcs11.lib(token.module).get_token(token_label=token.label).open(user_pin=PIN) as session:
        return len(list(session.get_objects({pkcs11.Attribute.ID: Pkcs11Uri.parse(key.uri).id})))


def test_the_key_never_leaves_the_token(tmp_path: Path, token: SoftToken) -> None:
    import pkcs11

    made = opened(tmp_path, token)
    held = (tmp_path / "fleet-ca.key").read_bytes()
    assert b"PRIVATE" not in held
    assert PIN.encode() not in held
    key = made.fleet.key
    assert isinstance(key, TokenKey)
    with pytest.raises(RefusedError, match="does not leave it"):
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pkcs11.lib(token.module).get_token(token_label=token.label).open(user_pin=PIN) as session:
        private = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, id=Pkcs11Uri.parse(key.uri).id)
        assert private[pkcs11.Attribute.SENSITIVE]
        assert not private[pkcs11.Attribute.EXTRACTABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            private[pkcs11.Attribute.VALUE]


def test_without_the_token_all_opens_and_only_signing_waits(tmp_path: Path, token: SoftToken) -> None:
    opened(tmp_path, token)
    token.unplug()
    try:
        made = opened(tmp_path, token)
        assert made.fleet.pem
        for work in (lambda: sign(made), lambda: made.revocation_lists(["a"])):
            with pytest.raises(UnavailableError, match="see that the token is there") as caught:
                work()
            assert caught.value.kind == "authority-unavailable"
        with pytest.raises(UnavailableError):
            Rotation(directory=tmp_path, fleet_keys=keys_at(token.uri)).rotate_fleet(NOW)
        assert opened(tmp_path, token).fleet.fingerprint == made.fleet.fingerprint
    finally:
        token.plug_in()
    sign(made).verify_directly_issued_by(made.fleet.certificate)


def test_a_wrong_pin_is_tried_once_and_the_right_one_at_once(token: SoftToken, monkeypatch: pytest.MonkeyPatch) -> None:
    key, tried = key_of(token), []
    token.pin_file.write_text("1111")
    for _ in range(5):
        with pytest.raises(UnavailableError, match="refused the PIN") as caught:
            key.sign(b"words", SIGNING)
        tried.append(type(caught.value.__cause__).__name__)
    assert tried == ["PinIncorrect", *["NoneType"] * 4]
    token.pin_file.write_text(PIN)
    key.public_key().verify(key.sign(b"words", SIGNING), b"words", SIGNING)
    token.pin_file.unlink()
    with pytest.raises(UnavailableError, match="make that file readable"):
        key.sign(b"words", SIGNING)
    uri = token.uri.partition("&")[0]
    monkeypatch.delenv("OTARIA_HSM_PIN", raising=False)
    with pytest.raises(UnavailableError, match="OTARIA_HSM_PIN"):
        keys_at(uri)()
    monkeypatch.setenv("OTARIA_HSM_PIN", PIN)
    assert keys_at(uri)().public_key()


def test_another_key_under_its_name_signs_nothing(token: SoftToken) -> None:
    """Somebody put another token in, or gave a key file another id: nothing leaves that the certificate doesn't verify."""
    key, other = key_of(token), key_of(token)
    mixed = TokenKey.read(other.reference.split(b"\n", 1)[0] + b"\n" + key.reference.split(b"\n", 1)[1])
    with pytest.raises(UnavailableError, match="another one than its certificate's"):
        mixed.sign(b"words", SIGNING)


def test_a_ca_moves_from_a_file_into_a_token(tmp_path: Path, token: SoftToken) -> None:
    before = Authorities.open_or_create(tmp_path, clock=lambda: NOW)
    Rotation(directory=tmp_path, fleet_keys=keys_at(token.uri)).rotate_fleet(NOW)
    after = opened(tmp_path, token)
    assert isinstance(after.fleet.key, TokenKey)
    assert [old.fingerprint for old in after.accepted] == [before.fleet.fingerprint]
    assert after.revocation_lists(["a"]).count(b"BEGIN") == 2


def test_a_key_from_a_ceremony_is_found_and_makes_one_ca(tmp_path: Path, token: SoftToken) -> None:
    ceremony = key_of(token)
    named = keys_at(ceremony.uri)
    made = Authorities.open_or_create(tmp_path, clock=lambda: NOW, fleet_keys=named)
    assert made.fleet.key.public_key() == ceremony.public_key()
    with pytest.raises(RefusedError, match="leave its id out") as caught:
        Rotation(directory=tmp_path, fleet_keys=named).rotate_fleet(NOW)
    assert caught.value.kind == "same-key"
    with pytest.raises(UnavailableError):
        keys_at(str(Pkcs11Uri.parse(ceremony.uri).naming(b"nobody")))()


def test_a_retired_key_is_destroyed_in_its_token_if_that_is_there(
    tmp_path: Path, token: SoftToken, caplog: pytest.LogCaptureFixture
) -> None:
    for unplugged in (False, True):
        key, path = key_of(token), tmp_path / "old.key"
        path.write_bytes(key.reference)
        assert objects_in(token, key) == 2
        if unplugged:
            token.unplug()
        try:
            forget_key(path)
        finally:
            if unplugged:
                token.plug_in()
        assert not path.exists()
        assert objects_in(token, key) == (2 if unplugged else 0)
        assert ("destroy it there" in caplog.text) == unplugged


def test_the_command_makes_it_once_and_then_shows_it(
    tmp_path: Path, token: SoftToken, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "otaria.toml"
    config.write_text(f'[identity]\nfleet_key = "{token.uri}"\n')
    said = []
    for _ in range(2):
        assert run_command(["keys", "fleet-ca", "--config", str(config), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert [one["made"] for one in said] == [True, False]
    assert (
        said[0]["fingerprint"]
        == said[1]["fingerprint"]
        == opened(tmp_path / "state" / "identity", token).fleet.fingerprint
    )
    assert said[0]["key"].startswith(f"pkcs11:token={token.label};id=%")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hsm:2?label=a", "must begin with pkcs11:"),
        ("pkcs11:token=a b?module-path=/x", "blanks"),
        ("pkcs11:token=a%2?module-path=/x", "stray percent"),
        ("pkcs11:token=a%FF?module-path=/x", "not UTF-8"),
        ("pkcs11:object=a?module-path=/x", "names no token"),
        ("pkcs11:token=a", "names no library"),
        ("pkcs11:token=a?module-path=x.so", "not an absolute path"),
        ("pkcs11:token=a;token=b?module-path=/x", "there twice"),
        ("pkcs11:token=a;slot-id=3?module-path=/x", "'slot-id' is unknown"),
        ("pkcs11:token=?module-path=/x", "empty"),
        ("pkcs11:token=a;type=cert?module-path=/x", "not private"),
        ("pkcs11:token=a?module-path=/x&pin-value=1234", "put it into a file"),
        ("pkcs11:token=" + "a" * 1100 + "?module-path=/x", "must begin"),
    ],
)
def test_a_uri_that_might_mean_another_key_is_refused(text: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why) as caught:
        Pkcs11Uri.parse(text)
    assert caught.value.kind == "bad-pkcs11-uri"
    assert "1234" not in caught.value.text


@given(st.text(min_size=1, max_size=20), st.binary(min_size=1, max_size=20), st.text(min_size=1, max_size=9))
def test_a_uri_says_the_same_once_written_and_read(label: str, key_id: bytes, name: str) -> None:
    try:
        uri = Pkcs11Uri(
            module=Path("/x") / name.replace("\0", "_"), token=label, object=name, id=key_id, pin_source=Path("/p i")
        )
        text = str(uri)
    except UnicodeEncodeError:
        return
    assert Pkcs11Uri.parse(text) == uri


def test_a_key_file_that_points_nowhere_is_refused(tmp_path: Path, token: SoftToken) -> None:
    path, key = tmp_path / "a.key", key_of(token)
    line, _, pem = key.reference.partition(b"\n")
    for data in (line, line + b"\nno pem", token.uri.encode() + b"\n" + pem):
        path.write_bytes(data)
        with pytest.raises(RefusedError) as caught:
            load_authority_key(path)
        assert caught.value.kind == "bad-key-file"
