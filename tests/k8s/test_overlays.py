"""The manifests of k8s/: they build, fit the schemas of Kubernetes and the operators, and keep raypose's own rules."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from raypose.cli.parsing import command_problem
from raypose.cli.root import app
from raypose.k8s.lint import lint
from raypose.k8s.manifest import Manifest
from raypose.k8s.render import build
from tests.k8s.schemas import CRDS, shape_problems

_problem = partial(command_problem, get_command(app))

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(
    str(path.parent.relative_to(ROOT))
    for part in ("base", "overlays")
    for path in (ROOT / "k8s" / part).rglob("kustomization.yaml")
)

pytestmark = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")), reason="neither kubectl nor kustomize is installed"
)


@pytest.fixture(scope="module")
def renderings() -> dict[str, list[Manifest]]:
    return {folder: build(str(ROOT / folder)) for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_rendering_keeps_every_rule(renderings: dict[str, list[Manifest]], folder: str) -> None:
    assert [str(finding) for finding in lint(renderings[folder], _problem)] == []


@pytest.mark.skipif(not CRDS.is_dir(), reason="../shared/kuberay-crds is not there")
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_rendering_fits_the_schemas_of_kubernetes_and_the_operators(
    renderings: dict[str, list[Manifest]], folder: str
) -> None:
    problems = {
        one.place: found
        for one in renderings[folder]
        if (found := shape_problems(yaml.safe_load(yaml.dump(one.content))))
    }
    assert problems == {}


@pytest.mark.skipif(not CRDS.is_dir(), reason="../shared/kuberay-crds is not there")
def test_the_schema_check_refuses_unknown_fields_and_wrong_types(renderings: dict[str, list[Manifest]]) -> None:
    job = next(one for one in renderings["k8s/base/train"] if one.kind == "RayJob")
    content = yaml.safe_load(yaml.dump(job.content))
    content["spec"]["backOffLimit"] = 3
    content["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
    assert len(shape_problems(content)) == 2


def test_every_component_is_part_of_an_overlay_that_is_tested() -> None:
    used = {
        Path(component).name
        for path in (ROOT / "k8s" / "overlays").rglob("kustomization.yaml")
        for component in yaml.safe_load(path.read_text()).get("components", ())
    }
    assert used == {path.name for path in (ROOT / "k8s" / "components").iterdir()}


def test_the_example_secret_holds_no_key() -> None:
    values = yaml.safe_load((ROOT / "k8s/secret-s3.example.yaml").read_text())["stringData"]
    assert {values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]} == {"REPLACE_ME"}


def test_a_config_map_that_changes_gets_another_name_in_the_job_too(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    first = build(str(tmp_path / "k8s/base/train"))
    with (tmp_path / "k8s/base/train/run.yaml").open("a") as file:
        file.write("# another\n")
    second = build(str(tmp_path / "k8s/base/train"))
    names = [next(one.name for one in manifests if one.kind == "ConfigMap") for manifests in (first, second)]
    assert names[0] != names[1]
    for manifests, name in zip((first, second), names, strict=True):
        job = next(one for one in manifests if one.kind == "RayJob")
        mounted = {
            volume["configMap"]["name"]
            for group in job.groups()
            for volume in group.pod["volumes"]
            if "configMap" in volume
        }
        assert mounted == {name}
