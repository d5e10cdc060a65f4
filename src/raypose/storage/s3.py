"""Objects in a bucket of Amazon S3, or of any server that speaks its protocol."""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, IncompleteReadError

from raypose.config.s3_url import S3Location
from raypose.errors import StorageError
from raypose.storage.base import StoredObject, check_key, check_range
from raypose.storage.local import appearing
from raypose.storage.s3_client import S3Connection
from raypose.storage.s3_errors import S3_ERRORS, is_absent

_TRANSFER = TransferConfig(
    multipart_threshold=16 * 2**20,
    multipart_chunksize=16 * 2**20,
    max_concurrency=4,  # parts of a shard of 64 MiB
    io_chunksize=2**20,  # a third less CPU time for each byte than in pieces of 256 KiB
    preferred_transfer_client="classic",  # the same behaviour whether or not awscrt happens to be installed
)
_DELETED_AT_ONCE = 1000
_WRITER = "raypose-writer"
_SERVER_FAULT = 500


class S3Store:
    """An ObjectStore in a bucket. Operations wait for a server that is away until `location.deadline_s` has passed."""

    def __init__(self, location: S3Location, connection: S3Connection | None = None) -> None:
        self.location = location
        self._connection = connection or S3Connection(location)

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        return self.location.url

    def place(self, key: str) -> str:
        return self.location.below(check_key(key)).url

    def read(self, key: str) -> bytes:
        target = self._object(key)

        def read(client: Any) -> bytes:
            return bytes(client.get_object(**target)["Body"].read())

        return self._connection.request(self._doing("read", key), read)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        check_range(key, start, stop)
        target = self._object(key)
        if start == stop:
            return b""

        def read(client: Any) -> bytes:
            return bytes(client.get_object(**target, Range=f"bytes={start}-{stop - 1}")["Body"].read())

        content = self._connection.request(self._doing("read", key), read)
        if len(content) != stop - start:
            raise StorageError(
                f"{self.place(key)}: {len(content)} bytes from {start} on, asked for {start} to {stop};"
                " the object ends before, or the server ignores ranges"
            )
        return content

    def size(self, key: str) -> int:
        target = self._object(key)
        return self._connection.request(self._doing("read", key), lambda client: _size(client, target))

    def write(self, key: str, content: bytes) -> None:
        target = self._object(key) | _content_type(key)

        def write(client: Any) -> None:
            client.put_object(**target, Body=content)

        self._connection.request(self._doing("write", key), write)

    def write_new(self, key: str, content: bytes) -> bool:
        target = self._object(key)
        writer = secrets.token_hex(16)

        def write(client: Any) -> bool:
            try:
                client.put_object(
                    **target, **_content_type(key), Body=content, IfNoneMatch="*", Metadata={_WRITER: writer}
                )
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "412"):
                    raise
                # It may be ours, from an attempt whose answer was lost on the way.
                found: dict[str, str] = client.head_object(**target)["Metadata"]
                return found.get(_WRITER) == writer
            return True

        return self._connection.request(self._doing("write", key), write)

    def upload(self, path: Path, key: str) -> None:
        target = self._object(key)

        def send(client: Any) -> None:
            client.upload_file(
                str(path), target["Bucket"], target["Key"], ExtraArgs=_content_type(key), Config=_TRANSFER
            )

        try:
            self._connection.request(self._doing("write", key), send)
        except OSError as error:
            raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error

    def download(self, key: str, path: Path) -> None:
        target = self._object(key)

        def fetch(client: Any, temporary: Path) -> None:
            expected = _size(client, target)
            client.download_file(target["Bucket"], target["Key"], str(temporary), Config=_TRANSFER)
            found = temporary.stat().st_size
            if found != expected:
                raise IncompleteReadError(actual_bytes=found, expected_bytes=expected)

        try:
            with appearing(path) as temporary:
                self._connection.request(self._doing("read", key), lambda client: fetch(client, temporary))
        except OSError as error:
            raise StorageError(f"{path}: cannot write: {error.strerror or error}") from error

    def exists(self, key: str) -> bool:
        target = self._object(key)

        def look(client: Any) -> bool:
            try:
                _size(client, target)
            except S3_ERRORS as error:
                if is_absent(error):
                    return False
                raise
            return True

        return self._connection.request(self._doing("read", key), look)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        root = f"{self.location.prefix}/" if self.location.prefix else ""
        wanted = root + (check_key(prefix) if prefix else "")
        doing = self._doing("list", prefix) if prefix else f"{self.url}: cannot list"
        query = {"Bucket": self.location.bucket, "Prefix": wanted}
        while True:
            page = self._connection.request(doing, partial(_list_page, query=query))
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # what consoles leave to show a folder
                    version = str(entry.get("ETag", "")).strip('"')
                    yield StoredObject(entry["Key"].removeprefix(root), int(entry["Size"]), version)
            if not page.get("IsTruncated"):
                return
            query = {**query, "ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        doomed = [self._object(key)["Key"] for key in keys]
        for first in range(0, len(doomed), _DELETED_AT_ONCE):
            some = doomed[first : first + _DELETED_AT_ONCE]
            self._connection.request(
                f"{self.url}: cannot delete", partial(_delete, bucket=self.location.bucket, keys=some)
            )

    def child(self, prefix: str) -> S3Store:
        return S3Store(self.location.below(check_key(prefix)), self._connection)

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.location.bucket, "Key": self.location.below(check_key(key)).prefix}

    def _doing(self, verb: Literal["read", "write", "list"], key: str) -> str:
        return f"{self.place(key)}: cannot {verb}"


def _size(client: Any, target: dict[str, str]) -> int:
    try:
        answer = client.head_object(**target)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= _SERVER_FAULT:
            raise
        # An answer to HEAD has no body that could say whether object, bucket or permission is missing.
        answer = client.get_object(**target)
        answer["Body"].close()
    return int(answer["ContentLength"])


def _list_page(client: Any, query: Mapping[str, str]) -> Any:
    return client.list_objects_v2(**query)


def _delete(client: Any, bucket: str, keys: Sequence[str]) -> None:
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
    for refused in answer.get("Errors", ()):
        detail = {"Error": {"Code": refused.get("Code"), "Message": f"{refused['Key']}: {refused.get('Message')}"}}
        raise ClientError(detail, "DeleteObjects")


def _content_type(key: str) -> dict[str, str]:
    """Lets a browser show a report or picture where it lies."""
    guessed, _ = mimetypes.guess_type(key)
    return {"ContentType": guessed} if guessed else {}
