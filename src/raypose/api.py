"""What the command line does, for Python programs: train, load, predict, validate, export.

Models are named as on the command line: a run (its best checkpoint), a checkpoint, an Ultralytics `.pt` or an exported
model, each by its path or its `s3://` URL.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raypose.checkpoint import config_of_run, local_model, locate_model, run_of, version_of
from raypose.checkpoint.locate import CONFIG
from raypose.config import RunConfig, ValConfig, load_config, parse_config
from raypose.errors import CheckpointError, ConfigError
from raypose.storage import ObjectStore, is_remote, open_parent, open_store, require_writable

if TYPE_CHECKING:
    from raypose.batch import OutputFormat, PredictPrecision, PredictSummary, Progress, VideoFormat
    from raypose.data.shard_set import ShardSet
    from raypose.engine.lr_finder import RangeTest
    from raypose.evaluate import Evaluation
    from raypose.evaluate.pose_metrics import Protocol
    from raypose.evaluate.run_comparison import RunComparison
    from raypose.inference import ComputePrecision, Predictor
    from raypose.model import ExportFormat
    from raypose.telemetry import Event, Reporter
    from raypose.tune.controller import View
    from raypose.tune.run import SweepResult
    from raypose.vision.draw import KeypointText


def train(
    config: RunConfig | str | Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    report: Reporter | None = None,
) -> dict[str, Any]:
    """Train as `raypose train` does and return what `summary.json` holds.

    `overrides` are `key.sub=value` strings for a file; `report` is told what happens. Raises ConfigError, DataError or
    CheckpointError before Ray starts, TrainingError or RunInterruptedError after.
    """
    from raypose.launch.driver import train as train_on_ray

    if isinstance(config, RunConfig) and overrides:
        raise ConfigError("overrides go with a YAML file; a RunConfig is complete: change it with model_copy")
    resolved = config if isinstance(config, RunConfig) else load_config(config, overrides)
    return train_on_ray(resolved, report or _silent, resume=resume)


def tune(
    sweep: str | Path | None = None, *, resume: str | Path | None = None, watch: Callable[[View], None] | None = None
) -> SweepResult:
    """Run a sweep file as `raypose tune` does, or go on with the sweep that lies at `resume`.

    `watch` is shown how trials stand, again and again. Raises ConfigError, DataError or CheckpointError before Ray
    starts, RunInterruptedError when it was stopped; trials that fail end up in the result.
    """
    from raypose.tune.checks import load_sweep
    from raypose.tune.run import begin
    from raypose.tune.run import resume as resume_sweep

    if (sweep is None) == (resume is None):
        raise ConfigError("tune: name either a sweep file or, with resume, the place of a sweep")
    shown = watch or (lambda view: None)
    return resume_sweep(str(resume), shown) if sweep is None else begin(load_sweep(sweep), shown)


def load(
    model: str | Path,
    *,
    imgsz: int | None = None,
    device: str = "auto",
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
) -> Predictor:
    """A model ready to predict: `load("runs/demo").predict([image])` with RGB images, height x width x 3."""
    from raypose.inference import Predictor

    with local_model(model) as path:
        return Predictor.load(path, imgsz, device=device, conf=conf, iou=iou, max_det=max_det)


def predict(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    imgsz: int | None = None,
    device: str = "auto",
    conf: float = 0.25,
    iou: float = 0.7,
    precision: PredictPrecision = "float32",
    batch: int = 8,
    workers: int | None = None,
    track: bool = False,
    pictures: bool = True,
    text: KeypointText = "none",
    video_format: VideoFormat = "mp4",
    format: OutputFormat = "jsonl",  # noqa: A002 - as on the command line
    progress: Callable[[Progress], None] | None = None,
) -> PredictSummary:
    """People in images, videos, folders and shard sets, as `raypose predict` writes them to `out`.

    Where `out` has a part of the same predictions, it goes on from there. Without `workers` it is done in this process,
    else by so many Ray actors, on the cluster that RAY_ADDRESS names or on this machine. Raises ConfigError where `out`
    has predictions of another model, source or setting; images that cannot be read end up in the result.
    """
    from raypose.batch import Crew, Settings, predict_source
    from raypose.engine.candidate import Candidate
    from raypose.launch.cluster import ray_cluster
    from raypose.launch.nodes import alive_nodes, share_for
    from raypose.model import tracked_conf

    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers} predicts nothing; use 1 or more")
    place = locate_model(model)
    place = place if is_remote(place) else str(Path(place).absolute())
    least = tracked_conf(conf) if track else conf
    candidate = Candidate(place, imgsz, conf=least, iou=iou, max_det=300, device=device, precision=precision)
    with local_model(place) as local:
        version = version_of(local)
        settings = Settings(place, version, conf, iou, imgsz, track, pictures, text, video_format, format, precision)
        here = replace(candidate, model=str(local))
        if workers is not None:  # they may have GPUs, and bfloat16, that this process has not
            replace(here, device="cpu", precision="float32").open()  # a model that cannot be used leaves nothing behind
        opened_by = here if workers is None else candidate
        with nullcontext() if workers is None else ray_cluster(max(os.cpu_count() or 1, workers)):
            crew = None if workers is None else Crew(workers, *share_for(alive_nodes(), workers, device))
            return predict_source(
                opened_by.open, str(source), out, settings, crew=crew, batch=batch, on_progress=progress
            )


def validate(
    model: str | Path,
    *,
    data: str | None = None,
    split: Literal["val", "train"] = "val",
    imgsz: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    precision: ComputePrecision | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    workers: int | None = None,
    protocol: Protocol | None = None,
    out: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on a shard set, by default on the `split` of the run it belongs to; `out` gets a report.

    How a run was validated holds for its models, too: its section `val`, its `train.precision`, its node cache.
    `flip` and `scales` are test-time augmentation. Without `workers` it is done in this process, else by so many Ray
    workers, on the cluster that RAY_ADDRESS names or on this machine; the numbers are the same. `progress` hears how
    many images are done, and how many there are.
    """
    from raypose.engine.candidate import Candidate
    from raypose.evaluate import Judge
    from raypose.inference import Views
    from raypose.launch.validate import predict_set

    source = locate_model(model)
    run = run_of(model)
    config = None if run is None else config_of_run(run)
    val = ValConfig() if config is None else config.val
    shards = _shards_to_validate(model, config, data, split)
    candidate = Candidate(
        source if is_remote(source) else str(Path(source).absolute()),
        imgsz,
        conf=val.conf,
        iou=val.iou,
        max_det=val.max_det,
        device=device,
        precision=precision or ("auto" if config is None else config.train.precision),
        views=Views(tuple(scales), shards.skeleton.flip_index if flip else None),
    )
    # Workers may have GPUs that this process has not.
    predictor = (candidate if workers is None else replace(candidate, device="auto")).open()
    _require_same_keypoints(model, predictor, shards)
    report = None if out is None else open_store(str(out))
    if report is not None:
        require_writable(report, "out")
    judge = Judge.of(val) if protocol is None else replace(Judge.of(val), protocol=protocol)
    results = []
    for result in predict_set(candidate, predictor, shards, batch=batch or val.batch, workers=workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(shards))
    evaluation = judge.measure(results, shards.skeleton, shards.class_names)
    if report is not None:
        _publish_validation(report, model, evaluation, predictor, shards)
    return evaluation


def find_learning_rate(
    config: RunConfig | str | Path,
    overrides: Sequence[str] = (),
    *,
    device: str = "auto",
    steps: int = 100,
    low: float = 1e-6,
    high: float = 1.0,
    out: Path | None = None,
    progress: Callable[[int], None] = lambda step: None,
) -> RangeTest:
    """Train at growing learning rates, in this process and without a run; `out` gets a picture of the losses.

    Raises ConfigError or DataError before it begins, TrainingError where no loss is finite.
    """
    from raypose.engine.lr_finder import draw_range_test, find_learning_rate

    if low >= high:
        raise ConfigError(f"the lowest learning rate, {low:g}, is not below the highest, {high:g}; exchange them")
    resolved = config if isinstance(config, RunConfig) else load_config(config, overrides)
    # Who wants to know lr0 wants it to be used.
    if resolved.train.optimizer == "auto":
        raise ConfigError("train.optimizer: auto chooses lr0 by itself; name an optimizer to find a rate for")
    test = find_learning_rate(resolved, device=device, steps=steps, low=low, high=high, progress=progress)
    if out is not None:
        draw_range_test(test, out)
    return test


def compare(runs: Sequence[str | Path], *, out: str | Path | None = None) -> RunComparison:
    """Runs side by side, finished or not; `out`, an .html file, gets a page."""
    from raypose.engine.run_records import read_runs
    from raypose.evaluate.compare_page import render_comparison
    from raypose.evaluate.run_comparison import compare_runs

    if out is not None and not str(out).endswith(".html"):
        raise ConfigError(f"{out}: the page is one file; name it with .html at its end")
    comparison = compare_runs(read_runs(runs))
    if out is not None:
        folder, name = open_parent(str(out))
        folder.write(name, render_comparison(comparison).encode())
    return comparison


def validate_files(predictions: Path, annotations: Path, *, protocol: Protocol = "coco") -> dict[str, float]:
    """COCO's ten keypoint numbers for a results file, or CrowdPose's nine, by their own names; -1 where undefined."""
    from raypose.evaluate.foreign import evaluate_files

    return evaluate_files(predictions, annotations, protocol=protocol)


def export(
    model: str | Path,
    *,
    to: ExportFormat = "onnx",
    out: str | Path | None = None,
    imgsz: int | None = None,
    dynamic: bool = False,
) -> str:
    """Write a model for another runtime and return where: `out`, a path or URL.

    By default that of a run goes to its `weights/`, another one's beside it, and from object storage to the current
    folder.
    """
    from raypose.model import export_model, load_model

    with local_model(model) as source:
        module, spec, trained_imgsz = load_model(source)
        target = str(out or _export_target(model, source, to))
    if not is_remote(target):
        return str(export_model(module, spec, imgsz or trained_imgsz, to, Path(target), dynamic=dynamic))
    store, name = open_parent(target)
    with tempfile.TemporaryDirectory(prefix="raypose-export-") as folder:
        written = export_model(module, spec, imgsz or trained_imgsz, to, Path(folder, name), dynamic=dynamic)
        for file in sorted(path for path in (written, *written.rglob("*")) if path.is_file()):
            store.upload(file, file.relative_to(folder).as_posix())
    return target


def run_config(run: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of an existing run, for resuming it where it lies now."""
    storage, name = open_parent(str(run))
    store = storage.child(name)
    if not store.exists(CONFIG):
        raise CheckpointError(f"{run}: no run there (no {CONFIG}); name the folder of a run, such as runs/demo")
    if any(override.startswith(("name=", "storage=")) for override in overrides):
        raise ConfigError("a resumed run keeps its name and storage; leave them out")
    place = [f"storage={json.dumps(storage.url)}", f"name={json.dumps(name)}"]
    return parse_config(store.read(CONFIG).decode("utf-8", errors="replace"), store.place(CONFIG), [*overrides, *place])


def summary_text(summary: Mapping[str, Any]) -> str:
    """The end of a run in a few lines: the figures, and where everything lies."""
    best, run = summary["best"], open_store(summary["folder"])
    labels = {"pose_ap": "pose AP", "pose_ap50": "AP50", "box_ap50": "box AP50"}
    decides = summary.get("best_metric", "pose_ap")
    labels = {decides: labels.get(decides, decides), **labels}  # first what makes it the best
    figures = "  ".join(f"{label} {best[name]:.3f}" for name, label in labels.items() if best.get(name) is not None)
    return "\n".join(
        [
            f"{summary['status']}: {summary['epochs']} epochs, {summary['steps']} steps,"
            f" {summary['images_per_second']:.1f} images/s, {summary['wall_seconds']:.0f} s",
            f"best       epoch {best['epoch']}  {figures}",
            f"weights    {run.place('weights/best.pt')}",
            f"checkpoint {summary['checkpoint']}",
            f"report     {run.place('report/index.html')}",
        ]
    )


def _export_target(model: str | Path, source: Path, to: ExportFormat) -> Path:
    suffix = {"onnx": ".onnx", "openvino": "_openvino", "torchscript": ".torchscript"}[to]
    if is_remote(str(model)):
        name = open_parent(str(model))[1]
        return Path((Path(name).stem if source.is_file() else name) + suffix)
    if source.is_file():
        return source.with_name(source.stem + suffix)
    run = run_of(source)
    if run is None:
        return source / f"model{suffix}"
    # Not into the checkpoint, which the run may let go of.
    return Path(run.place(f"weights/{source.name if Path(model).name == source.name else 'best'}{suffix}"))


def _shards_to_validate(
    model: str | Path, config: RunConfig | None, data: str | None, split: Literal["val", "train"]
) -> ShardSet:
    from raypose.data.cache import NodeCache, cache_folder
    from raypose.data.shard_set import ShardSet

    if config is None:
        if data is None:
            raise ConfigError(f"{model}: does not lie in a run that says which data; name a shard set with --data")
        shards = ShardSet.open(data)
    else:
        cache = NodeCache(cache_folder(config.data.cache_dir), config.data.cache_bytes)
        shards = ShardSet.open(data or (config.data.val if split == "val" else config.data.train), cache)
    shards.require_room()
    return shards


def _require_same_keypoints(model: str | Path, predictor: Predictor, shards: ShardSet) -> None:
    if predictor.spec.skeleton.keypoints != shards.skeleton.keypoints:
        raise CheckpointError(
            f"{model}: predicts {predictor.spec.skeleton.keypoints} keypoints, {shards.url} has"
            f" {shards.skeleton.keypoints}; validate on data with the model's own skeleton"
        )


def _publish_validation(
    store: ObjectStore, model: str | Path, evaluation: Evaluation, predictor: Predictor, shards: ShardSet
) -> None:
    from raypose.engine.report import publish_report

    publish_report(
        store,
        title=f"{model} on {shards.url}",
        evaluation=evaluation,
        predictor=predictor,
        shards=shards,
        pictures=8,
        facts={
            "model": predictor.spec.architecture,
            "keypoints": str(predictor.spec.skeleton.keypoints),
            "image size": f"{predictor.imgsz} px",
            "precision": f"{predictor.precision} on {predictor.device_type}",
        },
    )


def _silent(event: Event) -> None:
    """For callers who did not ask to be told."""
