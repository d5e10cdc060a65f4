"""What an object store's refusals mean for a user, and which of them pass by themselves."""

from __future__ import annotations

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 (botocore's, not Python's)
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)
from s3transfer.exceptions import S3DownloadFailedError

from raypose.config.s3_url import hide_secrets

S3_ERRORS = (BotoCoreError, ClientError, Boto3Error, S3DownloadFailedError)
"""Everything that boto3 raises when it cannot do as told."""

_TRANSIENT = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError, S3DownloadFailedError)
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeoutException", "OperationAborted"}
    | {"ConditionalRequestConflict", "RequestLimitExceeded", "InternalError", "ServiceUnavailable"}
)
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_TOO_MANY = 429
_SERVER_FAULT = 500

_LENGTH_MISSING = (
    "the server does not take checksums in trailers; set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    " (by default so wherever the endpoint is not Amazon's)"
)
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile of ~/.aws (?profile=) or an instance role"
_REGION = "it is in another region; add ?region= to the URL"
_MEANINGS = {
    "NoSuchBucket": "no such bucket; check its name and endpoint_url, or create it",
    "AccessDenied": "access denied; check what the credentials may do in this bucket, or read it with ?anonymous=true",
    "403": "access denied; check what the credentials may do in this bucket, or read it with ?anonymous=true",
    "InvalidAccessKeyId": f"the server does not know this access key; check endpoint_url, or {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key; {_CREDENTIALS}",
    "ExpiredToken": "the session token has expired; log in again",
    "InvalidToken": "the session token is not accepted; log in again",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "InvalidRange": "the object ends before the bytes asked for",
    "QuotaExceeded": "the quota is used up; free space or raise it",
    "MissingContentLength": _LENGTH_MISSING,
    "411": _LENGTH_MISSING,
    "XAmzContentSHA256Mismatch": _LENGTH_MISSING,
    "BadDigest": "the bytes that arrived differ from those sent; try again",
}


def is_absent(error: Exception) -> bool:
    """Whether it says that there is no such object (the bucket is there, as far as one can tell)."""
    cause = underlying(error)
    return isinstance(cause, ClientError) and _code(cause) in _ABSENT


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later: the server is away, busy or at fault."""
    cause = underlying(error)
    if isinstance(cause, ClientError):
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        # A part of a download that finds another object than the first part did starts anew.
        replaced = cause.operation_name == "GetObject" and _code(cause) == "PreconditionFailed"
        is_passing = status == _TOO_MANY or status >= _SERVER_FAULT or _code(cause) in _TRANSIENT_CODES
        return replaced or (is_passing and _code(cause) != "NotImplemented")
    if isinstance(cause, SSLError):
        return "CERTIFICATE" not in str(cause).upper()
    return isinstance(cause, _TRANSIENT)


def explain(error: Exception, endpoint: str) -> str:
    """What was found and what to do about it, in one line and without secrets."""
    cause = underlying(error)
    if isinstance(cause, ClientError):
        return _explain_response(cause)
    if isinstance(cause, NoCredentialsError | PartialCredentialsError):
        return f"no credentials found; {_CREDENTIALS}, or add ?anonymous=true for a public bucket"
    if isinstance(cause, ReadTimeoutError):
        return f"{endpoint} does not answer in time; check the server, or allow more with ?deadline_s="
    if isinstance(cause, SSLError):
        return f"{endpoint}: {_reason(cause)}; check endpoint_url, or name the authority with AWS_CA_BUNDLE"
    if isinstance(cause, ConnectTimeoutError | ConnectionError | HTTPClientError):
        return f"{endpoint} cannot be reached ({_reason(cause)}); check endpoint_url and the network"
    return _reason(cause)


def underlying(error: Exception) -> Exception:
    """What went wrong below the wrappers of transfers."""
    last = getattr(error, "last_exception", None)
    if isinstance(last, Exception):
        return last
    wrapped = error.__cause__ or error.__context__
    return wrapped if isinstance(error, Boto3Error) and isinstance(wrapped, Exception) else error


def _explain_response(error: ClientError) -> str:
    code = _code(error)
    if code in _ABSENT:
        return "no such object; check the name"
    if code in _MEANINGS:
        return _MEANINGS[code]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "?")
    message = " ".join(str(error.response.get("Error", {}).get("Message") or "").split())[:200]
    return hide_secrets(f"the server answers {status} {code}{': ' if message else ''}{message}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: Exception) -> str:
    """The innermost reason that the network gives, such as 'Connection refused'."""
    text = str(getattr(error, "kwargs", {}).get("error") or error)
    known = ("Connection refused", "Name or service not known", "Temporary failure in name resolution", "timed out")
    short = next((phrase for phrase in known if phrase in text), None)
    return short or hide_secrets(" ".join(text.split())[:200])
