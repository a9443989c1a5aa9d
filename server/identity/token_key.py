"""A P-256 key that lives in a PKCS#11 token and never leaves it, as a private key of `cryptography`, whose builders sign with it.

Each signature has a session of its own, so that a token may be unplugged and come back at any time; what signs is checked
against the public key that belongs to the certificate. A PIN that the token refused is not tried again until it is
another one: three wrong ones lock most tokens, and whoever needs a signature asks for it again and again.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from firmware.errors import OtariaError, RefusedError, UnavailableError
from server.identity.pkcs11_uri import SCHEME, Pkcs11Uri

if TYPE_CHECKING:
    from pkcs11 import Session, Token

PIN_VARIABLE = "OTARIA_HSM_PIN"
LABEL = "otaria-fleet-ca"
KIND = "authority-unavailable"
_ID_BYTES = 16
T = TypeVar("T")
_ONE_AT_A_TIME = threading.Lock()
"""Who is logged in to a token is a fact of the process, as PKCS#11 has it: two sessions with a PIN would refuse each other."""
_PIN_TROUBLE = ("PinIncorrect", "PinInvalid", "PinLocked", "PinExpired", "PinLenRange")


class TokenKey(ec.EllipticCurvePrivateKey):
    """The private half of a key pair in a token. Signing blocks, and raises `UnavailableError` (`authority-unavailable`) while
    the token can't be used."""

    def __init__(self, uri: Pkcs11Uri, public: ec.EllipticCurvePublicKey) -> None:
        """`uri` names the key by its id."""
        self._uri, self._public = uri, public
        self._door = _Door(uri)

    @classmethod
    def read(cls, data: bytes) -> "TokenKey":
        """A key from what `reference` gave. Raises `RefusedError` (`bad-pkcs11-uri`, `bad-key-file`)."""
        line, _, rest = data.partition(b"\n")
        uri = Pkcs11Uri.parse(line.decode("ascii", "replace").strip())
        try:
            public = load_pem_public_key(rest)
        except ValueError as error:
            raise RefusedError(
                "bad-key-file", "A key file with a PKCS#11 URI has its public key in PEM below."
            ) from error
        if uri.id is None or not isinstance(public, ec.EllipticCurvePublicKey):
            raise RefusedError("bad-key-file", "A key file's PKCS#11 URI names one P-256 key, by its id.")
        return cls(uri, public)

    @property
    def uri(self) -> str:
        return str(self._uri)

    @property
    def reference(self) -> bytes:
        """What a file holds in place of the key: where it is, and its public half."""
        pem = self._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return f"{self._uri}\n".encode() + pem

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA over sha256, DER. Raises `UnavailableError` (`authority-unavailable`)."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise RefusedError(KIND, "A key in a token signs sha256 only.")
        digest = hashlib.sha256(data).digest()
        raw = self._door.within(lambda session: _private(session, self._uri).sign(digest, mechanism=_ecdsa()))
        half = len(raw) // 2
        signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
        try:
            self._public.verify(signature, bytes(data), signature_algorithm)
        except InvalidSignature as error:
            text = f"The key at {self._uri} is another one than its certificate's; put the right token back."
            raise UnavailableError(KIND, text) from error
        return signature

    def destroy(self) -> None:
        """Destroy the pair in its token. Raises `UnavailableError` (`authority-unavailable`)."""

        def work(session: "Session") -> None:
            for found in list(session.get_objects({_attribute("ID"): self._uri.id})):
                found.destroy()

        self._door.within(work, rw=True)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        _stays(algorithm, peer_public_key)

    def private_numbers(self) -> NoReturn:
        _stays()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002 - theirs
        _stays(encoding, format, encryption_algorithm)

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        return self


class TokenKeys:
    """Makes keys in a token, or finds the one that the URI names by its id."""

    def __init__(self, uri: Pkcs11Uri) -> None:
        self._uri, self._door = uri, _Door(uri)

    def make(self) -> ec.EllipticCurvePrivateKey:
        """A key pair. Blocking. Raises `UnavailableError` (`authority-unavailable`)."""
        if self._uri.id is not None:
            return TokenKey(self._uri, self._door.within(lambda session: _public(session, self._uri)))
        named = self._uri.naming(secrets.token_bytes(_ID_BYTES))
        return TokenKey(named, self._door.within(lambda session: _generated(session, named), rw=True))


class _Door:
    """Opens sessions on one token."""

    def __init__(self, uri: Pkcs11Uri) -> None:
        self._uri = uri
        self._refused_pin: str | None = None

    def within(self, work: Callable[["Session"], T], *, rw: bool = False) -> T:
        """Do something in a session; whatever the library raises becomes a sentence."""
        try:
            with _ONE_AT_A_TIME, self._session(rw) as session:
                return work(session)
        except OtariaError:
            raise
        except ImportError as error:
            raise UnavailableError(KIND, "A CA in a token needs: pip install 'otaria[hsm]'.") from error
        except Exception as error:
            why = str(error) or type(error).__name__
            text = f"The CA's key is at {self._uri}, which cannot be used now ({why}); see that the token is there."
            raise UnavailableError(KIND, text) from error

    @contextmanager
    def _session(self, rw: bool) -> Iterator["Session"]:
        pin = self._pin()
        try:
            session = _token(self._uri).open(rw=rw, user_pin=pin)
        except Exception as error:
            if type(error).__name__ in _PIN_TROUBLE:
                self._refused_pin = pin
                raise self._wrong_pin() from error
            raise
        with session:
            yield session

    def _pin(self) -> str:
        source = self._uri.pin_source
        try:
            pin = source.read_text(encoding="utf-8").strip() if source else os.environ.get(PIN_VARIABLE, "")
        except (OSError, UnicodeDecodeError) as error:
            raise UnavailableError(KIND, f"The PIN cannot be read from {source}; make that file readable.") from error
        if not pin:
            text = f"The token's PIN is neither in {PIN_VARIABLE} nor in a file that the URI's pin-source names."
            raise UnavailableError(KIND, text)
        if pin == self._refused_pin:
            raise self._wrong_pin()
        return pin

    def _wrong_pin(self) -> UnavailableError:
        where = self._uri.pin_source or PIN_VARIABLE
        text = f"The token refused the PIN in {where}, which is not tried again; put the right one there."
        return UnavailableError(KIND, text)


def is_reference(data: bytes) -> bool:
    """Whether a key file says where a key is, and doesn't hold one."""
    return data.startswith(SCHEME.encode())


def _token(uri: Pkcs11Uri) -> "Token":
    import pkcs11

    wanted = {"token_label": uri.token, "token_serial": uri.serial.encode() if uri.serial else None}
    return pkcs11.lib(str(uri.module)).get_token(**{name: value for name, value in wanted.items() if value})


def _ecdsa() -> Any:
    from pkcs11 import Mechanism

    return Mechanism.ECDSA


def _attribute(name: str) -> Any:
    from pkcs11 import Attribute

    return Attribute[name]


def _private(session: "Session", uri: Pkcs11Uri) -> Any:
    from pkcs11 import KeyType, ObjectClass

    return session.get_key(ObjectClass.PRIVATE_KEY, KeyType.EC, label=uri.object, id=uri.id)


def _public(session: "Session", uri: Pkcs11Uri) -> ec.EllipticCurvePublicKey:
    from pkcs11 import KeyType, ObjectClass

    _private(session, uri)
    return _loaded(session.get_key(ObjectClass.PUBLIC_KEY, KeyType.EC, label=uri.object, id=uri.id))


def _generated(session: "Session", uri: Pkcs11Uri) -> ec.EllipticCurvePublicKey:
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_named_curve_parameters

    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    domain = session.create_domain_parameters(KeyType.EC, curve, local=True)
    kept = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
    public, _ = domain.generate_keypair(store=True, id=uri.id, label=uri.object or LABEL, private_template=kept)
    return _loaded(public)


def _loaded(public: Any) -> ec.EllipticCurvePublicKey:
    from pkcs11.util.ec import encode_ec_public_key

    key = load_der_public_key(encode_ec_public_key(public))
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnavailableError(KIND, "The key that the PKCS#11 URI names is not on the curve P-256; name another.")
    return key


def _stays(*_: object) -> NoReturn:
    raise RefusedError(KIND, "A key in a token does not leave it and agrees on no secrets; it signs.")
