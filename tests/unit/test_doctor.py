"""The doctor says what is wrong and what to do, and its exit code agrees."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from raypose.cli.doctor import (
    check_bucket,
    check_cpu,
    check_import,
    check_memory,
    check_offline,
    check_packages,
    check_ray_address,
    check_writable,
    cpu_flags,
    doctor,
    examine,
)

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_this_machine_can_train(tmp_path: Path) -> None:
    findings = list(examine(str(tmp_path)))
    assert [finding for finding in findings if finding.status == "fail"] == []
    assert {"python", "packages", "ray", "cpu", "memory", "storage", "disk"} <= {finding.name for finding in findings}


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    assert all(finding.advice for finding in examine(str(tmp_path)) if finding.status != "ok")


def test_json_carries_the_same_findings(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--json", "--storage", str(tmp_path)])
    assert result.exit_code == 0
    findings = json.loads(result.stdout)
    assert findings[0]["name"] == "python"
    assert all(set(finding) == {"name", "status", "found", "advice"} for finding in findings)


def test_a_failed_check_ends_with_exit_code_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    result = CliRunner().invoke(app, ["--storage", str(tmp_path)])
    assert result.exit_code == 1
    assert "expected host:port" in result.stdout


def test_installed_packages_meet_the_declared_requirements() -> None:
    (versions,) = check_packages()
    assert "ultralytics 8.4.190" in versions.found
    assert "ray 2.60.0" in versions.found


def test_a_module_that_does_not_load_is_a_failure_with_advice() -> None:
    finding = check_import("raypose_no_such_module", "install it")
    assert (finding.status, finding.advice) == ("fail", "install it")
    assert "raypose_no_such_module" in finding.found


def test_a_ray_address_that_answers_is_fine_and_one_that_does_not_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert check_ray_address(f"ray://{address}").status == "ok"
    finding = check_ray_address(address)
    assert finding.status == "fail"
    assert f"no Ray cluster answers at {address}" in finding.found
    assert finding.advice == "start one there, correct or unset it"


def test_a_cluster_that_a_run_on_this_machine_could_not_join_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypose.launch.cluster._is_node", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        finding = check_ray_address(f"127.0.0.1:{server.getsockname()[1]}")
    assert finding.status == "fail"
    assert "none of the cluster's nodes" in finding.found
    assert "raypose submit" in finding.advice


def test_without_a_cluster_runs_start_a_ray_of_their_own() -> None:
    assert check_ray_address(None).status == "ok"


@pytest.mark.parametrize("address", ["cluster", "cluster:", ":6379", "cluster:port", "127.0.0.1:99999999"])
def test_a_malformed_ray_address_fails(address: str) -> None:
    finding = check_ray_address(address)
    assert finding.status == "fail"
    assert finding.advice


def test_cpu_features_decide_the_precision_that_is_announced() -> None:
    sapphire = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"
    assert cpu_flags(sapphire) >= {"avx512_bf16", "amx_bf16"}
    assert "bfloat16" in check_cpu(sapphire, cores=8).found
    assert check_cpu("flags : fpu avx2\n", cores=8).found == "8 cores, avx2, no bfloat16 arithmetic: float32"
    assert "no known vector extension" in check_cpu("", cores=1).found


def test_little_memory_is_a_warning() -> None:
    assert check_memory(available_bytes=2**30).status == "warn"
    assert check_memory(available_bytes=2**36).status == "ok"


def test_a_folder_that_does_not_exist_yet_is_writable_if_its_parent_is(tmp_path: Path) -> None:
    assert check_writable("storage", tmp_path / "not" / "yet").status == "ok"
    assert not (tmp_path / "not").exists(), "looking must not create anything"


def test_a_home_folder_is_looked_at_where_runs_would_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (storage,) = (finding for finding in examine("~/runs") if finding.name == "storage")
    assert storage.found == f"{tmp_path}/runs can be made"


def test_a_file_in_the_way_of_the_storage_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    finding = check_writable("storage", tmp_path / "runs" / "demo")
    assert finding.status == "fail"
    assert str(tmp_path / "runs") in finding.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert check_writable("storage", tmp_path).status == "fail"


def test_usage_reports_that_the_user_turned_on_are_pointed_out() -> None:
    assert check_offline({}).status == "ok"
    assert check_offline({"RAY_USAGE_STATS_ENABLED": "0"}).status == "ok"
    assert check_offline({"RAY_USAGE_STATS_ENABLED": "1"}).status == "warn"


def test_a_bucket_that_no_server_offers_fails_with_advice() -> None:
    finding = check_bucket("s3://runs/demo?endpoint_url=http://127.0.0.1:9&deadline_s=1")
    assert finding.status == "fail" and "127.0.0.1:9" in finding.found and finding.advice
