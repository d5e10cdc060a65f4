"""The cluster files fit Ray's own check and EC2's parameters; broken ones do not. The image passes a linter."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster/Dockerfile"
NAMES = ("aws-gpu", "onprem", "autoscale-local")


def config_of(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / f"cluster/{name}.yaml").read_text()))


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of its provider, checked by Ray; raises what Ray raises."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(config))
    validate_config(config)
    return dict(config)


def ec2_problem(node_config: dict[str, Any]) -> str | None:
    import botocore.session
    from botocore.exceptions import ParamValidationError
    from botocore.validate import validate_parameters

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    try:
        validate_parameters({**node_config, "MinCount": 1, "MaxCount": 1}, shape)
    except ParamValidationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", NAMES)
def test_ray_takes_a_cluster_file(name: str) -> None:
    assert prepared(config_of(name))["cluster_name"]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("max_workers", "eight", "'eight' is not of type 'integer'"),
        ("max_worker", 8, "'max_worker' was unexpected"),
        ("provider", {}, "^'type'$"),
        ("available_node_types", {"gpu": {"node_config": {}}}, "'resources' is a required property"),
        ("head_node_type", "nobody", "`head_node_type` must be one of `available_node_types`"),
    ],
)
def test_ray_refuses_a_broken_one(path: str, value: Any, reason: str) -> None:
    with pytest.raises(Exception, match=reason):  # Ray raises jsonschema's errors and plain ones
        prepared({**config_of("aws-gpu"), path: value})


@pytest.mark.parametrize("node_type", ["head", "gpu"])
def test_ec2_knows_the_parameters_of_a_node(node_type: str) -> None:
    assert ec2_problem(config_of("aws-gpu")["available_node_types"][node_type]["node_config"]) is None


def test_ec2_refuses_parameters_that_it_does_not_know() -> None:
    assert "InstanceKind" in str(ec2_problem({"InstanceKind": "g5.2xlarge", "ImageId": "ami-0123456789abcdef0"}))


def test_the_head_is_on_demand_and_idle_and_workers_are_spot() -> None:
    types = config_of("aws-gpu")["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_every_node_asks_for_a_token() -> None:
    for name in ("aws-gpu", "onprem"):
        config = config_of(name)
        starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
        assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
        assert any(path.endswith("/.ray/auth_token") for path in config["file_mounts"])


def test_a_linter_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_pinned_and_runs_as_the_user_of_the_manifests() -> None:
    text = DOCKERFILE.read_text()
    assert all(":" in image for image in re.findall(r"^FROM (python\S*)", text, re.M))
    assert "USER 1000" in text
    assert f"ray{metadata.version('ray')}-" in text
    assert text.count("-c constraints") == 2, "both targets install what is locked"


def test_the_image_is_built_from_files_that_are_there_and_not_ignored() -> None:
    sources = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.M)
        for word in line.split()[:-1]
    }
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert sources <= kept
