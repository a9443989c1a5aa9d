"""The client of an S3-compatible store, and its errors in our words. The only module that knows botocore.

What is told of an error is its code and what to do: never a header, an address with a query, or a key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from urllib3.exceptions import HTTPError

from server.config_artifacts import ArtifactSettings
from server.errors import StoreError

ATTEMPTS = 3
ANYWHERE = "us-east-1"
"""What a store is told that knows no regions."""
_DENIED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401"}
)
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "ThrottlingException"})
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_KEYS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
_BROKEN = (HTTPClientError, NoConnectionError, IncompleteReadError, HTTPError, OSError)


class AbsentError(Exception):
    """There is no such object; or no such bucket, which a HEAD can't tell."""


def open_client(settings: ArtifactSettings, *, attempts: int = ATTEMPTS) -> Any:
    """A client, safe to use from many threads, that makes so many attempts at each request.

    Raises `StoreError` (`store-credentials-missing`)."""
    own = settings.credentials_file is not None or settings.profile is not None
    session = botocore.session.Session(profile=settings.profile or ("default" if own else None))
    if settings.credentials_file is not None:
        session.set_config_variable("credentials_file", str(settings.credentials_file))
    with asking(settings):
        if session.get_credentials() is None:
            raise NoCredentialsError
        return session.create_client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region or session.get_config_variable("region") or ANYWHERE,
            verify=str(settings.ca_file) if settings.ca_file else None,
            config=Config(
                connect_timeout=settings.timeout_s,
                read_timeout=settings.timeout_s,
                max_pool_connections=settings.connections,
                retries={"mode": "standard", "total_max_attempts": attempts},
                # Others than Amazon's refuse the checksums that it would add by itself. Ours are told one by one.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


@contextmanager
def asking(settings: ArtifactSettings) -> Iterator[None]:
    """Turn what the library raises into `StoreError`, or `AbsentError`."""
    where = settings.endpoint or "Amazon S3"
    try:
        yield
    except ClientError as error:
        raise _said(error, settings, where) from error
    except _KEYS as error:
        text = (
            "The artifact store's keys are missing: put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into the file "
            "that `artifacts.credentials_file` names, under its profile."
        )
        raise StoreError("store-credentials-missing", text) from error
    except SSLError as error:
        text = f"{where} shows a certificate that isn't trusted; name its authority's file as `artifacts.ca_file`."
        raise StoreError("store-unreachable", text) from error
    except _BROKEN as error:
        text = f"The artifact store at {where} is not reached ({type(error).__name__}); it is tried again."
        raise StoreError("store-unreachable", text) from error
    except BotoCoreError as error:
        text = f"The artifact store could not be asked ({type(error).__name__}); check the section [artifacts]."
        raise StoreError("store-refused", text) from error


def _said(error: ClientError, settings: ArtifactSettings, where: str) -> Exception:
    """What an answer of the store means."""
    code = str(error.response.get("Error", {}).get("Code", ""))[:80]
    code = code if code.isalnum() else "unknown"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _ABSENT:
        return AbsentError()
    if code == "NoSuchBucket":
        return bucket_missing(settings)
    if code in _DENIED:
        text = (
            f"{where} refuses our keys ({code}): they must be valid and allow GetObject, PutObject, DeleteObject, ListBucket, "
            f"AbortMultipartUpload and ListBucketMultipartUploads on {settings.bucket}."
        )
        return StoreError("store-denied", text)
    if code in _BUSY or status == 503:
        return StoreError("store-busy", f"{where} is busy ({code}); ask again in a moment.")
    if status >= 500:
        return StoreError("store-unreachable", f"{where} fails ({code}); ask again later.")
    return StoreError("store-refused", f"{where} refuses what was asked ({code}); check the section [artifacts].")


def bucket_missing(settings: ArtifactSettings) -> StoreError:
    """The bucket isn't there."""
    where = settings.endpoint or "Amazon S3"
    text = f"There is no bucket {settings.bucket} at {where}; make it, or correct `artifacts.bucket`."
    return StoreError("store-bucket-missing", text)
