"""What a user is told when a bucket says no: one line with the place, the reason and the next step, and no secret."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from raypose.config import dump_config, load_config
from raypose.config.s3_url import S3Location
from raypose.errors import StorageError
from raypose.storage import ObjectStore, open_store, require_writable
from raypose.storage.s3_errors import explain, is_transient
from tests.s3.conftest import BUCKET, below
from tests.s3.servers import ACCESS_KEY, SECRET_KEY, client_of, make_bucket

TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN"


def acts(store: ObjectStore, file: Path) -> dict[str, Callable[[], object]]:
    return {
        "read": lambda: store.read("key"),
        "range": lambda: store.read_range("key", 0, 1),
        "size": lambda: store.size("key"),
        "exists": lambda: store.exists("key"),
        "write": lambda: store.write("key", b""),
        "write_new": lambda: store.write_new("key", b""),
        "upload": lambda: store.upload(file, "key"),
        "download": lambda: store.download("key", file.with_name("target")),
        "list": lambda: list(store.list()),
        "delete": lambda: store.delete(["key"]),
        "probe": lambda: require_writable(store, "storage"),
    }


def complaint(act: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as failure:
        act()
    text = str(failure.value)
    assert "\n" not in text
    assert SECRET_KEY not in text
    assert TOKEN not in text
    return text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


def test_every_operation_on_a_missing_bucket_says_so(s3_endpoint: str, file: Path) -> None:
    store = open_store(S3Location("no-such-bucket", "runs", endpoint_url=s3_endpoint).url)
    for name, act in acts(store, file).items():
        text = complaint(act)
        assert text.removeprefix("storage: ").startswith("s3://no-such-bucket/runs"), name
        assert "no such bucket; check its name and endpoint_url, or create it" in text, name
    assert [path.name for path in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIANOBODY", "the server does not know this access key"),
        ("AWS_SECRET_ACCESS_KEY", "another-secret", "the secret key does not fit"),
    ],
)
def test_wrong_credentials_are_told_apart(
    rgw_endpoint: str, file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    store = open_store(S3Location(BUCKET, endpoint_url=rgw_endpoint).url)
    for name, act in acts(store, file).items():
        text = complaint(act)
        assert reason in text, name
        assert value not in text, name


def test_what_another_user_may_not_do_is_denied(rgw_endpoint: str, file: Path) -> None:
    store = open_store(S3Location(BUCKET, endpoint_url=rgw_endpoint, anonymous=True).url)
    for name, act in acts(store, file).items():
        assert "access denied" in complaint(act), name


def test_a_public_bucket_is_read_without_credentials(rgw_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bucket(rgw_endpoint, "public")
    open_store(S3Location("public", endpoint_url=rgw_endpoint).url).write("set/manifest.json", b"{}")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": ["arn:aws:s3:::public", "arn:aws:s3:::public/*"],
            }
        ],
    }
    client_of(rgw_endpoint).put_bucket_policy(Bucket="public", Policy=json.dumps(policy))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(S3Location("public", "set", endpoint_url=rgw_endpoint, anonymous=True).url)
    assert [entry.key for entry in store.list()] == ["manifest.json"]
    assert store.read("manifest.json") == b"{}"
    assert not store.exists("other.json")
    assert "access denied" in complaint(lambda: store.write("key", b""))


def test_missing_credentials_are_asked_for(s3_endpoint: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(S3Location(BUCKET, endpoint_url=s3_endpoint).url)
    for name, act in acts(store, file).items():
        assert "no credentials found; set AWS_ACCESS_KEY_ID" in complaint(act), name


def test_a_profile_of_the_aws_configuration_is_used(
    rgw_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {rgw_endpoint}\n")
    credentials.write_text(f"[lab]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    store = open_store(f"s3://{BUCKET}/of-a-profile?profile=lab")
    store.write("key", b"1")
    assert store.read("key") == b"1"
    assert "~/.aws has no profile 'other'" in complaint(lambda: open_store(f"s3://{BUCKET}?profile=other").read("key"))


def test_an_endpoint_of_the_environment_is_used(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    store = open_store(f"s3://{BUCKET}/of-the-environment")
    store.write("key", b"1")
    assert store.read("key") == b"1"


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (411, "MissingContentLength", "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
        (411, "411", "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
        (301, "PermanentRedirect", "add ?region= to the URL"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (400, "ExpiredToken", "log in again"),
        (418, "Teapot", "the server answers 418 Teapot: short and stout"),
    ],
)
def test_refusals_that_no_server_here_makes_are_explained_too(status: int, code: str, advice: str) -> None:
    answer = {"Error": {"Code": code, "Message": "short\nand  stout"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = ClientError(answer, "UploadPart")
    assert advice in explain(error, "http://server")
    assert not is_transient(error)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_at_fault_is_asked_again(status: int) -> None:
    assert is_transient(ClientError({"ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"))


def test_secrets_are_in_nothing_that_is_written_or_sent(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    with caplog.at_level(logging.DEBUG, "raypose"):
        store = open_store(s3_url)
        store.write("key", b"1")
        complaint(lambda: open_store(below(s3_url, "", endpoint_url="http://127.0.0.1:1", deadline_s=0.5)).read("key"))
    config = load_config(None, [f"data.train={s3_url}", "data.val=b", f"storage={s3_url}"])
    seen = [repr(store), store.url, store.place("key"), dump_config(config), config.model_dump_json(), caplog.text]
    seen.append(repr(pickle.dumps(store)))
    assert not any(secret in text for text in seen for secret in (SECRET_KEY, ACCESS_KEY, TOKEN))
