"""A service's configuration is complete, checked and documented before anything starts."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from raypose.config.serve_schema import ServeConfig, load_serve_config, serve_config_of
from raypose.errors import ConfigError
from raypose.serve.local import free_port, require_changeable
from raypose.serve.problem import CODES
from raypose.serve.replica import user_config_of, wanted_of

PROJECT = Path(__file__).parents[2]


def leaves(section: type[BaseModel] = ServeConfig, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every dotted key with its default as YAML writes it."""
    for name, field in section.model_fields.items():
        branch = field.annotation
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            yield from leaves(branch, f"{prefix}{name}.")
        elif field.is_required():
            yield prefix + name, "required"
        else:
            yield prefix + name, yaml.safe_dump(field.get_default()).removesuffix("...\n").strip()


def test_the_example_loads() -> None:
    assert load_serve_config(PROJECT / "configs/serve.yaml").follow_s == 10


def test_every_setting_and_every_code_is_documented() -> None:
    text = (PROJECT / "docs/serving.md").read_text()
    assert re.findall(r"^\| `([\w.]+)` \| `(\S+)` \| \S", text, re.MULTILINE) == list(leaves())
    assert all(f"`{code}`" in text for code in CODES)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("modle=x", "unknown key; did you mean model?"),
        ("model=", "must be a valid string"),
        ("compute.imgsz=100", "must be a multiple of 32"),
        ("compute.device=tpu", "must match pattern"),
        ("replicas.count=0", "would never serve"),
        ("replicas={count: 3, most: 2}", "most 2 is below count 3"),
        ("access.api_keys=[secret]", "must match pattern"),
        (f"access.api_keys=[sha256:{hashlib.sha256(b'').hexdigest()}]", "one is the SHA-256 of no text at all"),
        ("access.cors_origins=['*']", "must match pattern"),
        ("canary={model: b, shar: 1}", "canary.shar: unknown key; did you mean canary.share?"),
        ("canary={model: b, share: 2}", "must be less than or equal to 1"),
        ("defaults.conf=.nan", "must be a finite number"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_expected(override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_serve_config(None, ("model=runs/demo", override))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_change_in_place_survives_the_way_through_ray_serve() -> None:
    config = load_serve_config(None, ("model=a", "which=last", "follow_s=5", "canary={model: b, share: 0.5}"))
    wanted = wanted_of(user_config_of(config))
    assert (wanted.model, wanted.which, wanted.follow_s) == ("a", "last", 5.0)
    assert wanted.canary == config.canary


def test_arguments_of_the_application_are_values_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("model: runs/demo\nlimits: {images: 2}\n")
    assert serve_config_of({"config": str(file)}) == serve_config_of({"model": "runs/demo", "limits": {"images": 2}})
    with pytest.raises(ConfigError, match="args of the serve application"):
        serve_config_of({"model": 3})
    with pytest.raises(ConfigError) as caught:
        serve_config_of({"model": "runs/demo", "limts": {}, "replicas": {"cout": 2}})
    assert sorted(caught.value.problems) == [
        "args of the serve application: limts: unknown key; did you mean limits?",
        "args of the serve application: replicas.cout: unknown key; did you mean replicas.count?",
    ]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("limits.images=2", "limits: cannot change while the service runs with one replica"),
        ("compute={imgsz: 320, batch: 4}", "compute: cannot change while the service runs with one replica"),
        ("replicas.count=2", "replicas: cannot change while the service runs with one replica"),
        ("http.port=9000", "http: cannot change while the service runs; "),
    ],
)
def test_a_change_that_would_leave_a_service_without_its_one_replica_is_refused(override: str, told: str) -> None:
    running = load_serve_config(None, ("model=a",))
    with pytest.raises(ConfigError, match=f"^{re.escape(told)}.*start it again"):
        require_changeable(running, load_serve_config(None, ("model=a", override)))


def test_models_change_in_place_and_of_several_replicas_the_others_go_on_meanwhile() -> None:
    for replicas in (1, 2):
        running = load_serve_config(None, ("model=a", f"replicas.count={replicas}"))
        models = ("model=b", "which=last", "follow_s=5", "canary={model: c}", f"replicas.count={replicas}")
        require_changeable(running, load_serve_config(None, models))
    require_changeable(running, load_serve_config(None, ("model=a", "limits.images=2", "replicas.count=3")))
    with pytest.raises(ConfigError, match=r"^http: "):
        require_changeable(running, load_serve_config(None, ("model=a", "http.port=9000", "replicas.count=2")))


def test_a_place_where_nobody_can_listen_is_refused_by_its_key() -> None:
    assert free_port("127.0.0.1") > 0
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^http\.port: cannot listen on 127\.0\.0\.1:{port}: .*another port"):
            free_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"^http\.host: cannot listen on 192\.0\.2\.1:0: "):  # kept for examples
        free_port("192.0.2.1")
