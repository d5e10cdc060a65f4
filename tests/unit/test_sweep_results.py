"""What a sweep of two metrics leaves, latency among them, and what a data set suggests."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest
import yaml

from raypose.config import RunConfig, dump_config, load_config
from raypose.config.schema import MlflowConfig
from raypose.data.shard_set import ShardSet
from raypose.data.stats import collect_stats
from raypose.errors import ConfigError
from raypose.storage.local import LocalStore
from raypose.structures import COCO_PERSON, Skeleton
from raypose.tune.checks import Sweep, load_sweep
from raypose.tune.controller import View
from raypose.tune.found import write_sweep
from raypose.tune.latency import LATENCY_KEY, costs_of, models_of
from raypose.tune.preflight import read_warm_starts
from raypose.tune.records import Measured, Records, SweepState, Trial
from raypose.tune.report import render_sweep
from raypose.tune.results import front_of, publish_results
from raypose.tune.run import begin, best_yaml, resume, status
from raypose.tune.schema import SweepConfig
from raypose.tune.suggest import batch_size, sigmas_by_name, suggest, suggested_file
from raypose.tune.warm import Point, read_prior, write_prior
from tests.data_sets import tiny_run
from tests.simulated_trials import simulated_sweep
from tests.tune.sweep_files import tiny_sweep


def traded(number: int, value: float, latency: float) -> Trial:
    parameters = {"train.lr0": 0.001 * (number + 1)}
    metrics = {"pose_ap": value, "latency_ms": latency}
    return Trial(number, parameters, "finished", measured=(Measured(1, 6, value),), steps=6, metrics=metrics)


TRADED = [traded(0, 0.5, 20.0), traded(1, 0.3, 10.0), traded(2, 0.4, 30.0), traded(3, 0.6, 40.0)]


def left_by(folder: Path, trials: list[Trial]) -> tuple[Sweep, LocalStore]:
    """A sweep of AP against latency that has ended with these trials."""
    sweep, store = simulated_sweep(folder, against={"latency_ms": "min"}), LocalStore(folder / "sweep")
    write_sweep(sweep, store)
    for trial in trials:
        Records(store).write(trial)
    Records(store).write_state(SweepState("finished"))
    return sweep, store


def test_the_front_is_in_the_files_the_page_and_on_request(tmp_path: Path) -> None:
    sweep, store = left_by(tmp_path, TRADED)
    publish_results(sweep, store, TRADED)
    assert [one.number for one in front_of(sweep.config, TRADED)] == [3, 0, 1]
    rows = list(csv.DictReader((tmp_path / "sweep/trials.csv").open()))
    assert [row["front"] for row in rows] == ["1", "1", "0", "1"]
    assert sorted(path.name for path in (tmp_path / "sweep/front").iterdir()) == ["0000.yaml", "0001.yaml", "0003.yaml"]
    run = load_config(tmp_path / "sweep/front/0001.yaml")
    assert (run.name, run.train.lr0) == ("sweep-0001", 0.002)
    page = render_sweep(sweep, SweepState("finished"), TRADED, store.url)
    assert "pose_ap against latency_ms" in page
    assert best_yaml(store.url).startswith(
        "# On the front of sweep sweep: trial 0003, pose_ap 0.6000, latency_ms 40.0000."
    )
    assert "trial 0001, pose_ap 0.3000, latency_ms 10.0000" in best_yaml(store.url, 1)


def test_a_later_sweep_begins_with_what_an_earlier_one_knows(tmp_path: Path) -> None:
    _, store = left_by(tmp_path, TRADED)
    settings = {"searcher": {"use": "nsga2"}, "against": {"latency_ms": "min"}, "warm_start": [store.url]}
    points = read_warm_starts(simulated_sweep(tmp_path, **settings))
    assert points == [Point(one.parameters, (one.metrics["pose_ap"], one.metrics["latency_ms"])) for one in TRADED]
    write_prior(LocalStore(tmp_path / "later"), points)
    assert read_prior(LocalStore(tmp_path / "later")) == points
    elsewhere = simulated_sweep(tmp_path, **{**settings, "space": {"train.lr0": {"uniform": [0.5, 0.9]}}})
    with pytest.raises(ConfigError, match="none of its 4 trials has ended, lies in this space and has measured"):
        read_warm_starts(elsewhere)
    with pytest.raises(ConfigError, match=r"warm_start: .*: no sweep there"):
        read_warm_starts(simulated_sweep(tmp_path, **{**settings, "warm_start": [str(tmp_path / "nothing")]}))


class KilledError(BaseException):
    """The process of the sweep is gone."""


def test_results_of_a_sweep_that_was_killed_after_its_last_record_come_from_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypose.launch.cluster.ray_cluster", lambda local_cpus: nullcontext())
    monkeypatch.setattr("raypose.launch.nodes.alive_nodes", lambda: [{"CPU": 2.0}])
    store = LocalStore(tmp_path / "sweep")
    write_sweep(simulated_sweep(tmp_path, budget={"trials": 4}), store)
    for trial in TRADED:
        Records(store).write(trial)
    Records(store).write_state(SweepState("interrupted"))
    store.write("report.html", b"as it was when it was interrupted")

    def kill(view: View) -> None:
        if view.state.status == "finished":
            raise KilledError

    with pytest.raises(KilledError):
        resume(store.url, kill)
    assert status(store.url).state.status == "finished"
    result = resume(store.url, kill)
    assert b"pose_ap" in store.read("report.html")
    assert load_config(tmp_path / "sweep/best.yaml").train.lr0 == result.ranked[0].parameters["train.lr0"]
    assert len(list(csv.DictReader((tmp_path / "sweep/trials.csv").open()))) == 4


def test_a_sweep_that_begins_takes_nothing_from_a_start_that_came_to_no_record(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(local_cpus: int) -> NoReturn:
        raise KilledError

    monkeypatch.setattr("raypose.launch.cluster.ray_cluster", killed)
    store = LocalStore(tmp_path / "runs/sweep")
    write_prior(store, [Point({"train.lr0": 0.5}, (0.9,))])
    store.write(LATENCY_KEY, b"{}")
    with pytest.raises(KilledError):
        begin(load_sweep(tiny_sweep(tmp_path, data, str(tmp_path / "runs"))), lambda view: None)
    assert read_prior(store) == []
    assert not store.exists(LATENCY_KEY)


def test_mlflow_holds_the_sweep_as_the_parent_of_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="needs raypose[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from raypose.telemetry.mlflow_tracker import MlflowTracker
    from raypose.tune.parent import MlflowParent

    plain = simulated_sweep(tmp_path)
    mlflow = MlflowConfig(tracking_uri=(tmp_path / "mlruns").as_uri(), experiment="poses")
    telemetry = plain.base.telemetry.model_copy(update={"mlflow": mlflow})
    sweep = Sweep(plain.config, plain.base.model_copy(update={"telemetry": telemetry}))
    store = LocalStore(tmp_path / "sweep")
    store.write("report.html", b"<p>good</p>")
    for trial in TRADED[:2]:  # as each trial's own run does
        folder = store.child("trials").child(trial.name).url
        MlflowTracker(mlflow, name=trial.name, folder=folder, parameters={})
    for sitting in range(2):
        parent = MlflowParent(sweep, store)
        parent(View(sweep, SweepState(), TRADED[: sitting + 1], {}, dict.fromkeys(range(sitting + 1), 6)))
    parent.close(SweepState("finished"), TRADED)

    client = tracking.MlflowClient(tracking_uri=mlflow.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("poses").experiment_id])
    [top] = [run for run in runs if run.info.run_name == "sweep"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    assert sorted(run.info.run_name for run in children) == ["0000", "0001"]
    assert (top.info.status, top.data.metrics["best/pose_ap"], top.data.metrics["trials"]) == ("FINISHED", 0.6, 4)
    assert [file.path for file in client.list_artifacts(top.info.run_id, "sweep")] == ["sweep/report.html"]


def test_latency_is_measured_once_for_each_kind_of_model(data: Path, tmp_path: Path) -> None:
    base = tiny_run(data, tmp_path)
    values = {
        "name": "sweep", "base": "base.yaml", "against": {"latency_ms": "min"}, "budget": {"trials": 2},
        "space": {"train.imgsz": {"choice": [64, 320]}, "train.lr0": {"uniform": [0.1, 0.2]}},
    }  # fmt: skip
    sweep, store = Sweep(SweepConfig.model_validate(values), base), LocalStore(tmp_path / "sweep")
    assert models_of(sweep) == [("yolo11n-pose", 64), ("yolo11n-pose", 320)]
    costs = costs_of(sweep, store)

    def latency(imgsz: int) -> float:
        return costs(run_at(base, imgsz))["latency_ms"]

    assert min(latency(64), latency(320)) > 0 and latency(64) != latency(320)
    before = (tmp_path / "sweep" / LATENCY_KEY).read_bytes()
    assert costs_of(sweep, store)(run_at(base, 64)) == costs(run_at(base, 64))
    assert (tmp_path / "sweep" / LATENCY_KEY).read_bytes() == before


def run_at(base: RunConfig, imgsz: int) -> RunConfig:
    return base.model_copy(update={"train": base.train.model_copy(update={"imgsz": imgsz})})


def test_a_data_set_suggests_a_sweep_that_is_sound(data: Path, tmp_path: Path) -> None:
    text = suggested_file(f"{data}/train")
    (tmp_path / "sweep.yaml").write_text(text)
    (tmp_path / "base.yaml").write_text(dump_config(tiny_run(data, tmp_path, "train.epochs=9")))
    sweep = load_sweep(tmp_path / "sweep.yaml")
    assert sweep.base.train.batch == 8  # 48 images
    assert "train.imgsz: images are 96 px long" in text
    assert "val.sigmas" not in yaml.safe_load(text)["overrides"]  # COCO's skeleton has its own


def test_suggestions_follow_from_sizes_counts_and_names(data: Path) -> None:
    stats = collect_stats(ShardSet.open(f"{data}/train"))
    without = Skeleton(names=("Left Hip", "head_top"), edges=(), flip_pairs=())
    suggestion = suggest(stats, without)
    assert suggestion.imgsz % 32 == 0
    assert suggestion.imgsz <= 96
    assert suggestion.sigmas == (0.107, 0.072)
    assert "COCO's for 1 of 2 keypoints" in suggestion.reasons["val.sigmas"]
    assert sigmas_by_name(COCO_PERSON.names) == (COCO_PERSON.sigmas, 17)
    assert [batch_size(images) for images in (10, 800, 1600, 10**6)] == [8, 16, 32, 128]
