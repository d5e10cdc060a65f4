"""What the command line does, for Python programs: train, load, validate, export.

Models are named as on the command line: a run (its best checkpoint), a checkpoint, an Ultralytics `.pt` or an exported
model, each by its path or its `s3://` URL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raypose.checkpoint import config_of_run, local_model, locate_model, run_of
from raypose.checkpoint.locate import CONFIG
from raypose.config import RunConfig, load_config, parse_config
from raypose.errors import CheckpointError, ConfigError
from raypose.storage import is_remote, open_parent, open_store

if TYPE_CHECKING:
    from raypose.evaluate import Evaluation, Judge
    from raypose.evaluate.pose_metrics import Protocol
    from raypose.inference import Predictor
    from raypose.model import ExportFormat
    from raypose.telemetry import Event, Reporter


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


def validate(
    model: str | Path,
    *,
    data: str | None = None,
    split: Literal["val", "train"] = "val",
    imgsz: int | None = None,
    batch: int = 16,
    protocol: Protocol | None = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Measure a model on a shard set, by default on the `split` of the run it belongs to; `out` gets a report.

    Protocol, sigmas and validators are those of the run, COCO's and none for a model without one.
    """
    from raypose.data.shard_set import ShardSet
    from raypose.engine.report import publish_report
    from raypose.engine.validate import validate as measure
    from raypose.engine.world import World

    source = locate_model(model)
    url = data or _data_of_run(model, split)
    shards = ShardSet.open(url)
    predictor = load(source, imgsz=imgsz, conf=0.001)
    if predictor.spec.skeleton.keypoints != shards.skeleton.keypoints:
        raise CheckpointError(
            f"{model}: predicts {predictor.spec.skeleton.keypoints} keypoints, {url} has {shards.skeleton.keypoints};"
            " validate on data with the model's own skeleton"
        )
    judge = _judge_of_run(model)
    if protocol is not None:
        judge = replace(judge, protocol=protocol)
    evaluation = measure(predictor, shards, World(), batch=batch, judge=judge)
    assert evaluation is not None  # the only worker is the leader
    if out is not None:
        publish_report(
            open_store(str(out)),
            title=f"{model} on {url}",
            evaluation=evaluation,
            predictor=predictor,
            shards=shards,
            pictures=8,
            facts={
                "model": predictor.spec.architecture,
                "keypoints": str(predictor.spec.skeleton.keypoints),
                "image size": f"{predictor.imgsz} px",
            },
        )
    return evaluation


def validate_files(predictions: Path, annotations: Path, *, protocol: Protocol = "coco") -> dict[str, float]:
    """COCO's ten keypoint numbers for a results file, or CrowdPose's nine, by their own names; -1 where undefined."""
    from raypose.evaluate.foreign import evaluate_files

    return evaluate_files(predictions, annotations, protocol=protocol)


def export(
    model: str | Path,
    *,
    to: ExportFormat = "onnx",
    out: Path | None = None,
    imgsz: int | None = None,
    dynamic: bool = False,
) -> Path:
    """Write a model for another runtime and return where; by default beside its weights.

    What is exported from object storage goes, by default, to the current folder.
    """
    from raypose.model import export_model, load_model

    suffix = {"onnx": ".onnx", "openvino": "_openvino", "torchscript": ".torchscript"}[to]
    with local_model(model) as source:
        module, spec, trained_imgsz = load_model(source)
        if is_remote(str(model)):
            beside = Path(Path(open_parent(str(model))[1]).stem + suffix)
        else:
            beside = source / f"model{suffix}" if source.is_dir() else source.with_name(source.stem + suffix)
    return export_model(module, spec, imgsz or trained_imgsz, to, out or beside, dynamic=dynamic)


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
    figures = "  ".join(
        f"{label} {best[name]:.3f}"
        for label, name in (("pose AP", "pose_ap"), ("AP50", "pose_ap50"), ("box AP50", "box_ap50"))
        if best.get(name) is not None
    )
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


def _data_of_run(model: str | Path, split: Literal["val", "train"]) -> str:
    run = run_of(model)
    if run is None:
        raise ConfigError(f"{model}: does not lie in a run that says which data; name a shard set with --data")
    data = config_of_run(run).data
    return data.val if split == "val" else data.train


def _judge_of_run(model: str | Path) -> Judge:
    from raypose.evaluate import BY_COCO, Judge

    run = run_of(model)
    return BY_COCO if run is None else Judge.of(config_of_run(run).val)


def _silent(event: Event) -> None:
    """For callers who did not ask to be told."""
