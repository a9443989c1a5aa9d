"""The two authorities: what they sign, what they refuse, what survives a restart."""

import re
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN
from server.identity.authority import MQTT_IDENTITY, SERVICE_DAYS, Authorities
from server.identity.certificates import MAX_CSR_BYTES, requested_key
from tests.brokers import csr_of

DAY_S = 86400.0
NOW = 1_800_000_000.0


def opened(directory: Path, now: float = NOW, hosts: tuple[str, ...] = ()) -> Authorities:
    return Authorities.open_or_create(directory, hosts=hosts, clock=lambda: now)


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_authorities_survive_a_restart(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "a"), opened(tmp_path / "a")
    assert first.services.fingerprint == second.services.fingerprint
    assert first.fleet.pem == second.fleet.pem
    assert first.fleet.pem != first.services.pem


def test_private_keys_are_private_and_the_directory_is_too(tmp_path: Path) -> None:
    opened(tmp_path / "a")
    keys = list((tmp_path / "a").glob("*.key"))
    assert len(keys) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert not list((tmp_path / "a").glob("*.new"))


def test_authorities_sign_leaves_only(tmp_path: Path) -> None:
    made = opened(tmp_path)
    for authority in (made.fleet, made.services):
        extensions = authority.certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.key_cert_sign, usage.digital_signature) == (True, False)


def test_an_agents_certificate_says_its_id_and_that_it_is_a_client(tmp_path: Path) -> None:
    made = opened(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = made.sign_agent(csr_of(key, MQTT_IDENTITY), "d-abcdefghij")
    certificate = x509.load_pem_x509_certificate(signed.pem)
    certificate.verify_directly_issued_by(made.fleet.certificate)
    assert [name.value for name in certificate.subject] == ["d-abcdefghij"]
    assert certificate.public_key() == key.public_key()
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert f"{certificate.serial_number:x}" == signed.serial


def test_a_requests_extensions_are_ignored(tmp_path: Path) -> None:
    """A device that asks to be a CA, a server and another host gets none of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "otaria.server")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    signed = opened(tmp_path).sign_agent(request.public_bytes(serialization.Encoding.PEM), "d-abcdefghij")
    certificate = x509.load_pem_x509_certificate(signed.pem)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.SERVER_AUTH not in usage


@pytest.mark.parametrize("name", ["otaria.server", "", "a/b", "A", "+", "#", "d-x\n", "-d", "../d", "d" * 64])
def test_the_fleet_authority_certifies_agent_ids_only(tmp_path: Path, name: str) -> None:
    csr = csr_of(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(RefusedError) as caught:
        opened(tmp_path).sign_agent(csr, name)
    assert caught.value.kind == "bad-name"


def test_one_request_has_one_serial_and_others_have_others(tmp_path: Path) -> None:
    made, key = opened(tmp_path), ec.generate_private_key(ec.SECP256R1())
    csr = csr_of(key)
    serial = made.sign_agent(csr, "d-aaaaaaaaaa").serial
    assert made.sign_agent(csr, "d-aaaaaaaaaa").serial == serial
    assert made.sign_agent(csr, "d-bbbbbbbbbb").serial != serial
    assert made.sign_agent(csr_of(key), "d-aaaaaaaaaa").serial != serial


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_strong_keys_are_accepted(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    assert opened(tmp_path).sign_agent(request.public_bytes(serialization.Encoding.PEM), "d-abcdefghij")


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())], ids=["rsa", "secp256k1"]
)
def test_other_keys_are_refused(key: ec.EllipticCurvePrivateKey) -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(RefusedError) as caught:
        requested_key(request.public_bytes(serialization.Encoding.PEM))
    assert caught.value.kind == "bad-csr"


def test_a_request_signed_by_another_key_is_refused() -> None:
    """Proof of possession of the TLS key: swap the public key inside a valid request."""
    mine, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def raw(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)

    der = x509.load_pem_x509_csr(csr_of(mine)).public_bytes(serialization.Encoding.DER)
    assert raw(mine) in der
    forged = x509.load_der_x509_csr(der.replace(raw(mine), raw(theirs)))
    with pytest.raises(RefusedError) as caught:
        requested_key(forged.public_bytes(serialization.Encoding.PEM))
    assert caught.value.kind == "bad-csr"


@given(st.binary(max_size=300))
def test_noise_is_no_request(noise: bytes) -> None:
    for data in (noise, b"-----BEGIN CERTIFICATE REQUEST-----\n" + noise + b"\n-----END CERTIFICATE REQUEST-----\n"):
        with pytest.raises(RefusedError):
            requested_key(data)


def test_a_huge_request_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RefusedError, match=str(MAX_CSR_BYTES)):
        requested_key(b"x" * (MAX_CSR_BYTES + 1))


def test_service_certificates_name_the_configured_hosts(tmp_path: Path) -> None:
    made = opened(tmp_path, hosts=("fleet.example", "192.0.2.7"))
    for files in (made.broker_for_agents, made.https_for_devices):
        names = loaded(files.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {"localhost", "fleet.example"} <= set(names.get_values_for_type(x509.DNSName))
        assert {"127.0.0.1", "192.0.2.7"} <= {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}


def test_a_service_certificate_is_renewed_in_the_last_third_of_its_life(tmp_path: Path) -> None:
    before = loaded(opened(tmp_path).mqtt_client.certificate)
    two_thirds = NOW + SERVICE_DAYS * DAY_S * 2 / 3
    assert loaded(opened(tmp_path, two_thirds - 2 * DAY_S).mqtt_client.certificate) == before
    after = loaded(opened(tmp_path, two_thirds + 2 * DAY_S).mqtt_client.certificate)
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert after.public_key() == before.public_key()


def test_a_service_certificate_is_renewed_when_its_names_change(tmp_path: Path) -> None:
    before = loaded(opened(tmp_path).broker_for_agents.certificate)
    assert loaded(opened(tmp_path).broker_for_agents.certificate) == before
    assert loaded(opened(tmp_path, hosts=("new.example",)).broker_for_agents.certificate) != before


@pytest.mark.parametrize("name", ["fleet-ca", "services-ca"])
def test_a_damaged_authority_is_refused_and_never_replaced(tmp_path: Path, name: str) -> None:
    opened(tmp_path)
    (tmp_path / f"{name}.key").rename(tmp_path / "away")
    with pytest.raises(RefusedError, match="restore"):
        opened(tmp_path)
    (tmp_path / f"{name}.key").write_bytes((tmp_path / "mqtt-client.key").read_bytes())
    with pytest.raises(RefusedError, match="do not belong together"):
        opened(tmp_path)
    (tmp_path / f"{name}.key").write_bytes(b"noise")
    with pytest.raises(RefusedError, match="restore"):
        opened(tmp_path)
    (tmp_path / "away").rename(tmp_path / f"{name}.key")
    (tmp_path / f"{name}.pem").write_bytes(b"noise")
    with pytest.raises(RefusedError, match="restore"):
        opened(tmp_path)


def test_a_cut_between_key_and_certificate_is_continued(tmp_path: Path) -> None:
    made = opened(tmp_path)
    (tmp_path / "fleet-ca.pem").unlink()
    (tmp_path / "broker.pem").unlink()
    again = opened(tmp_path)
    assert again.fleet.key.private_numbers() == made.fleet.key.private_numbers()
    assert again.services.fingerprint == made.services.fingerprint


def test_a_name_that_cannot_be_certified_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        opened(tmp_path, hosts=("bücher.example",))
    assert caught.value.kind == "bad-name"


def test_openssl_accepts_the_chains_for_their_purpose_only(tmp_path: Path) -> None:
    made = Authorities.open_or_create(tmp_path / "ids")
    agent = tmp_path / "agent.pem"
    agent.write_bytes(made.sign_agent(csr_of(ec.generate_private_key(ec.SECP256R1())), "d-abcdefghij").pem)

    def verifies(ca: Path, purpose: str, leaf: Path) -> bool:
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca), "-purpose", purpose, str(leaf)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert verifies(made.fleet_ca_file, "sslclient", agent)
    assert not verifies(made.fleet_ca_file, "sslserver", agent)
    assert not verifies(made.services_ca_file, "sslclient", agent)
    assert verifies(made.services_ca_file, "sslserver", made.broker_for_agents.certificate)
    assert not verifies(made.services_ca_file, "sslclient", made.broker_for_agents.certificate)
    assert verifies(made.services_ca_file, "sslclient", made.mqtt_client.certificate)


def test_no_agent_id_can_be_the_servers_identity() -> None:
    assert not re.match(ID_PATTERN, MQTT_IDENTITY)
