"""What `s3://` URLs mean, and that no credential gets into or out of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.config import dump_config, load_config
from raypose.config.s3_url import S3Location, hide_secrets
from raypose.errors import ConfigError
from raypose.storage import ancestry, open_parent, open_store

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
DATA = ["data.train=a", "data.val=b"]

segments = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=8)
prefixes = st.lists(segments.filter(lambda part: part not in (".", "..")), max_size=4).map("/".join)
locations = st.builds(
    S3Location,
    bucket=st.from_regex(r"\A[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]\Z"),
    prefix=prefixes,
    endpoint_url=st.none() | st.sampled_from(["http://127.0.0.1:9000", "https://minio.example.org/s3"]),
    region=st.none() | st.sampled_from(["eu-central-1", "us-east-1"]),
    path_style=st.none() | st.booleans(),
    anonymous=st.booleans(),
    profile=st.none() | st.text(min_size=1, max_size=8).filter(lambda name: hide_secrets(name) == name),
    deadline_s=st.sampled_from([120.0, 0.5, 30.0]),
)


@given(location=locations)
def test_a_location_and_its_url_say_the_same(location: S3Location) -> None:
    assert S3Location.parse(location.url) == location


def test_a_url_says_how_the_bucket_is_reached() -> None:
    url = (
        "s3://poses/runs/a b?endpoint_url=http://10.0.0.7:9000/&region=eu-1&path_style=false&anonymous=true&profile=lab"
    )
    assert S3Location.parse(url) == S3Location(
        "poses", "runs/a b", "http://10.0.0.7:9000", "eu-1", path_style=False, anonymous=True, profile="lab"
    )


def test_options_follow_into_the_parts_of_a_store() -> None:
    store = open_store("s3://poses/runs?region=eu-1")
    assert store.child("demo").url == store.place("demo") == "s3://poses/runs/demo?region=eu-1"
    parent, key = open_parent("s3://poses/runs/demo?region=eu-1")
    assert (parent.url, key) == (store.url, "demo")
    assert [above.url for above in ancestry("s3://poses/runs/demo?region=eu-1")] == [
        "s3://poses/runs/demo?region=eu-1",
        "s3://poses/runs?region=eu-1",
        "s3://poses?region=eu-1",
    ]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://", "no name of a bucket"),
        ("s3:///prefix", "no name of a bucket"),
        ("s3://b/x", "no name of a bucket"),
        ("s3://poses?pathstyle=true", "did you mean path_style"),
        ("s3://poses?colour=red", "known here: endpoint_url"),
        ("s3://poses?region", "not option=value"),
        ("s3://poses?region=", "expected a name"),
        ("s3://poses?path_style=yes", "expected true or false"),
        ("s3://poses?endpoint_url=10.0.0.7:9000", "expected http://"),
        ("s3://poses?endpoint_url=http://host:port", "Port could not be cast"),
        ("s3://poses?deadline_s=-1", "more than 0"),
        ("s3://poses?deadline_s=soon", "could not convert"),
        ("s3://poses?region=a&region=b", "given twice"),
        ("s3://poses/../other", "climbs"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_its_reason(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refusal:
        open_store(url)
    assert "\n" not in str(refusal.value)


WITH_SECRETS = [
    f"s3://AKIAEXAMPLE:{SECRET}@poses/runs",
    f"s3://{SECRET.replace('/', '_')}@poses/runs",
    f"s3://poses/runs?secret_key={SECRET}",
    f"s3://poses/runs?region=eu-1&aws_session_token={SECRET}",
    f"s3://poses/runs?X-Amz-Signature={SECRET}",
    f"s3://poses/runs?endpoint_url=http://user:{SECRET}@host",
    f"s3://poses/runs?endpoint_url=http%3A%2F%2Fuser:{SECRET.replace('/', '%2F')}%40host",
]


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    for refuse in (open_store, lambda url: load_config(None, [*DATA, f"storage={url}"])):
        with pytest.raises(ConfigError, match="credentials do not belong") as refusal:
            refuse(url)
        assert not any(part in str(refusal.value) for part in (SECRET, SECRET.replace("/", "_"), "K7MDENG"))


@pytest.mark.parametrize("url", ["gs://poses/runs", "https://host/runs", "file:///data/runs"])
def test_other_storage_is_a_wrong_setting(url: str) -> None:
    for refuse in (open_store, lambda url: load_config(None, [*DATA, f"storage={url}"])):
        with pytest.raises(ConfigError, match=r"give a local folder or an s3:// URL"):
            refuse(url)


def test_a_key_may_look_like_an_address() -> None:
    assert S3Location.parse("s3://poses/mail/me@example.org/a:b@2x.jpg").prefix == "mail/me@example.org/a:b@2x.jpg"


def test_a_configuration_keeps_urls_as_they_are_and_checks_their_options() -> None:
    url = "s3://poses/runs?endpoint_url=http://127.0.0.1:9000"
    config = load_config(None, [f"data.train={url}", "data.val=b", f"storage={url}", f"model.pretrained={url}"])
    assert (config.storage, config.data.train, config.model.pretrained) == (url, url, url)
    assert dump_config(config).count(url) == 3
    with pytest.raises(ConfigError, match=r"storage: s3://poses/runs: unknown option endpoint; did you mean"):
        load_config(None, [*DATA, "storage=s3://poses/runs?endpoint=http://127.0.0.1:9000"])


def test_a_path_beside_a_store_keeps_its_options() -> None:
    location = S3Location("poses", "a", region="eu-1")
    assert location.below("b/c.jpg") == replace(location, prefix="a/b/c.jpg")
