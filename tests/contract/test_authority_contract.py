"""What a CA does wherever its key is: in a file, or in a PKCS#11 token (SoftHSM 2) that it never leaves."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from firmware.errors import RefusedError
from server.identity.authority import Authorities
from server.identity.authority_files import load_certificates
from server.identity.authority_keys import MakeKey, keys_at
from server.identity.revocation import revoked_in
from server.identity.rotation import Rotation
from tests.brokers import csr_of
from tests.softhsm import SoftToken, soft_token

NOW = 1_800_000_000.0
AGENT = "d-abcdefghij"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftToken]:
    with soft_token(tmp_path_factory.mktemp("softhsm"), "fleet") as made:
        yield made


@pytest.fixture(params=["file", "token"])
def keys(request: pytest.FixtureRequest) -> MakeKey:
    return keys_at(None if request.param == "file" else request.getfixturevalue("token").uri)


def opened(directory: Path, keys: MakeKey) -> Authorities:
    return Authorities.open_or_create(directory, clock=lambda: NOW, fleet_keys=keys)


def signed(authorities: Authorities) -> x509.Certificate:
    made = authorities.sign_agent(csr_of(ec.generate_private_key(ec.SECP256R1())), AGENT)
    return x509.load_pem_x509_certificate(made.pem)


def test_what_it_signs_holds_for_others_too(tmp_path: Path, keys: MakeKey) -> None:
    """`cryptography` and OpenSSL's own command verify its certificates, and the list that revokes one of them."""
    made = opened(tmp_path, keys)
    good, bad = signed(made), signed(made)
    good.verify_directly_issued_by(made.fleet.certificate)
    made.fleet.certificate.verify_directly_issued_by(made.fleet.certificate)
    made.revocation_file.write_bytes(made.revocation_lists([f"{bad.serial_number:x}"]))
    assert revoked_in(made.revocation_file) == {bad.serial_number}
    listed = x509.load_pem_x509_crl(made.revocation_file.read_bytes())
    assert listed.is_signature_valid(made.fleet.key.public_key())
    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", str(made.fleet_ca_file)]
    command += ["-CRLfile", str(made.revocation_file), "-attime", str(int(NOW))]
    for certificate, outcome in ((good, 0), (bad, 2)):
        path = tmp_path / "leaf.pem"
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == outcome, done.stderr
        assert ("certificate revoked" in done.stderr) == bool(outcome)


def test_it_is_the_same_after_a_restart(tmp_path: Path, keys: MakeKey) -> None:
    before = opened(tmp_path, keys)
    signed(Authorities.open(tmp_path, clock=lambda: NOW)).verify_directly_issued_by(before.fleet.certificate)
    signed(opened(tmp_path, keys)).verify_directly_issued_by(before.fleet.certificate)


def test_it_is_replaced_with_an_overlap_and_then_destroyed(tmp_path: Path, keys: MakeKey) -> None:
    before = opened(tmp_path, keys)
    rotation = Rotation(directory=tmp_path, fleet_keys=keys)
    rotation.rotate_fleet(NOW)
    between = opened(tmp_path, keys)
    signed(between).verify_directly_issued_by(between.fleet.certificate)
    assert [old.fingerprint for old in between.accepted] == [before.fleet.fingerprint]
    lists = between.revocation_lists(["abc"])
    assert lists.count(b"BEGIN X509 CRL") == 2
    rotation.retire_fleet()
    after = opened(tmp_path, keys)
    assert load_certificates(after.fleet_ca_file) == [after.fleet.certificate]
    assert [path.name for path in tmp_path.glob("fleet-ca*.key")] == ["fleet-ca.key"]
    signed(after).verify_directly_issued_by(after.fleet.certificate)


def test_another_key_beside_its_certificate_is_refused(tmp_path: Path, keys: MakeKey) -> None:
    opened(tmp_path / "a", keys)
    opened(tmp_path / "b", keys)
    (tmp_path / "a" / "fleet-ca.key").write_bytes((tmp_path / "b" / "fleet-ca.key").read_bytes())
    with pytest.raises(RefusedError, match="do not belong together"):
        opened(tmp_path / "a", keys)
