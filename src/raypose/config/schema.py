"""Every setting of a run, its type, range and default. Hyperparameters keep Ultralytics' names and defaults.

Nothing here imports torch or Ray: a configuration is complete and checked before either starts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from raypose.config.byte_size import ByteBudget, ByteSize
from raypose.config.s3_url import S3Location, is_remote
from raypose.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Gain = Annotated[float, Field(ge=0.0)]
Weight = Annotated[float, Field(gt=0.0)]
LayerNumber = Annotated[int, Field(ge=0)]
Layers = LayerNumber | Annotated[tuple[LayerNumber, ...], Field(strict=False)]
"""So many layers from the first one on, or those of a list."""

STRIDE = 32
"""Pixels: every YOLO pose model wants image sides that are multiples of its largest stride."""

DEFAULT_CACHE_BYTES = 50 * 2**30


def _check_place(place: str) -> str:
    if is_remote(place):
        try:
            S3Location.parse(place)
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return place


Place = Annotated[str, AfterValidator(_check_place)]
"""A local path or an `s3://bucket/prefix` URL, whose options are then checked."""


def absolute_place(place: str, folder: Path) -> str:
    """A path as it is meant in `folder`; a URL as it is."""
    return place if is_remote(place) else str(folder.absolute() / Path(place).expanduser())


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # `epochs: yes` is a mistake, not 1
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ModelConfig(_Section):
    architecture: str = Field(default="yolo11n-pose", pattern=r"^yolo(v8|11|12|26)[nslmx]-pose$")
    """A pose architecture that Ultralytics ships: yolov8, yolo11, yolo12 or yolo26, sizes n to x."""
    pretrained: Place | None = None
    """Where the weights start: an Ultralytics `.pt`, or a raypose run or checkpoint. None starts from scratch."""


class DataConfig(_Section):
    train: Place
    """Folder of the training shard set, as `raypose data build` or `data import` wrote it."""
    val: Place
    """Folder of the validation shard set."""
    shuffle_window: Annotated[int, Field(ge=1)] = 8192
    """Samples shuffled together. Larger mixes more, smaller keeps fewer shards open at a time."""
    max_bad_fraction: Fraction = 0.0
    """Share of the samples whose image may fail to decode before the run stops. Skipped samples are counted."""
    loader_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """What makes batches ahead for each worker. `auto`: none on CPU, where they would only take cores from training."""
    loader: Literal["auto", "threads", "processes"] = "auto"
    """What loader workers are. Threads start at once and share memory; Python lets few of them run side by side.
    `auto`: threads for up to two, else processes. Batches are the same."""
    batches_ahead: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Most batches (of one virtual worker) that a worker holds in memory before training asks for them. `auto`: two for
    each loader worker."""
    cache_dir: str | None = None
    """Folder in which each node keeps shards that it has fetched. None: `$RAYPOSE_CACHE_DIR` of the node, else
    `~/.cache/raypose/shards`."""
    cache_bytes: ByteSize = DEFAULT_CACHE_BYTES
    """Most bytes of shards in that folder; a number or a size such as `50GiB`."""
    pixel_cache_bytes: ByteBudget = 0
    """Most bytes of decoded images below that folder, so that later epochs, and other runs on the node, need not
    decode them; 0 keeps none. An image takes about 3 * imgsz * imgsz bytes. Batches are the same."""


class ProfileConfig(_Section):
    start: Annotated[int, Field(ge=0)] = 10
    """First step to record. The very first ones are not typical."""
    steps: Annotated[int, Field(ge=1)] = 5


class TrainConfig(_Section):
    epochs: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 16
    """Images of one global batch, all workers together."""
    imgsz: Annotated[int, Field(ge=STRIDE)] = 640
    """Side of the square training image in pixels, a multiple of 32."""
    seed: Annotated[int, Field(ge=0)] = 0
    deterministic: bool = True
    """Ask torch for deterministic kernels. Resuming bit for bit depends on it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 autocast where the hardware multiplies it natively, else float32."""
    optimizer: Literal["auto", "SGD", "MuSGD", "Adam", "AdamW"] = "auto"
    """`auto` chooses optimizer, lr0 and momentum by Ultralytics' rule; lr0 and momentum below are then unused."""
    lr0: Annotated[float, Field(gt=0.0)] = 0.01
    """Initial learning rate."""
    lrf: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Final learning rate as a fraction of lr0."""
    cos_lr: bool = False
    """Cosine schedule from lr0 to lr0*lrf instead of a straight line."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.937
    """SGD momentum, or Adam's beta1."""
    weight_decay: Gain = 0.0005
    warmup_epochs: Gain = 3.0
    warmup_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    warmup_bias_lr: Gain = 0.1
    nbs: Annotated[int, Field(ge=1)] = 64
    """Nominal batch size: gradients add up over about nbs/batch batches before an optimizer step."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 10.0
    """Largest gradient norm; longer gradients are scaled down to it."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9999
    ema_tau: Annotated[float, Field(gt=0.0)] = 2000.0
    """The weights' moving average uses ema_decay * (1 - exp(-updates / ema_tau))."""
    box: Gain = 7.5
    cls: Gain = 0.5
    dfl: Gain = 1.5
    pose: Gain = 12.0
    kobj: Gain = 1.0
    rle: Gain = 1.0
    class_weights: dict[str, Weight] = {}
    """How much a class counts in the classification loss, by its name. 1 for those that are not named."""
    keypoint_weights: dict[str, Weight] = {}
    """How much a keypoint counts in the losses of its position, by its name. 1 for those that are not named."""
    freeze: Layers = 0
    """Freeze the first N layers, or the layers of this list."""
    freeze_schedule: dict[Annotated[int, Field(ge=1, strict=False)], Layers] = {}  # keys of JSON are texts
    """What is frozen instead from an epoch on (counted from 0), such as `{5: 10, 10: 0}`."""
    sync_bn: bool = False
    """Normalise by the statistics of the whole global batch instead of those of each virtual worker. A worker then
    holds its whole part of the batch in memory at once."""
    compile: bool = False
    """Compile the model with torch.compile: minutes at every start, faster steps on most GPUs, none on CPUs. Rounds
    otherwise than the model as it is."""
    multi_scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Vary the image size of each step by up to this fraction of imgsz, in multiples of 32."""
    device_augment: bool = False
    """Decode and augment on the GPU that trains instead of on processors. The same distributions and labels; pixels
    differ by interpolation."""
    on_bad_loss: Literal["stop", "skip", "rollback"] = "stop"
    """After a loss or gradient that is not finite: end the run; go on without that step; or go back to the weights of
    the newest checkpoint and on with the data after that step. Its batch is kept below `bad-batches/`."""
    max_bad_steps: Annotated[int, Field(ge=1)] = 3
    """Such steps in a row that `skip` and `rollback` let pass."""
    patience: Annotated[int, Field(ge=0)] = 100
    """Stop after this many epochs without a better `checkpoint.best_metric`. 0 never stops early."""
    profile: ProfileConfig | None = None
    """Record `{start, steps}` as a Chrome trace below `profile/`. No part of the recipe."""

    def frozen_in(self, epoch: int) -> int | tuple[int, ...]:
        """The layers that are frozen in an epoch, counted from 0."""
        begun = [start for start in self.freeze_schedule if start <= epoch]
        return self.freeze_schedule[max(begun)] if begun else self.freeze

    @field_validator("imgsz")
    @classmethod
    def _check_imgsz(cls, imgsz: int) -> int:
        if imgsz % STRIDE:
            raise ValueError(f"{imgsz} is no multiple of {STRIDE}; use {_nearest_multiple(imgsz)}")
        return imgsz


class AugmentConfig(_Section):
    mosaic: Fraction = 1.0
    """Probability that a training image is a mosaic of four."""
    close_mosaic: Annotated[int, Field(ge=0)] = 10
    """Epochs at the end that train without mosaic, mixup and cutmix."""
    mixup: Fraction = 0.0
    """Probability that a training image is blended with another one."""
    cutmix: Fraction = 0.0
    """Probability that a part of another image covers a part without people."""
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    translate: Fraction = 0.1
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    shear: Annotated[float, Field(ge=0.0, lt=90.0)] = 0.0
    perspective: Annotated[float, Field(ge=0.0, le=0.001)] = 0.0
    hsv_h: Fraction = 0.015
    hsv_s: Fraction = 0.7
    hsv_v: Fraction = 0.4
    flipud: Fraction = 0.0
    fliplr: Fraction = 0.5


class WorkerRange(_Section):
    min: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check_order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}; exchange them")
        return self


Workers = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[WorkerRange, Tag("range")],
    # Only the kind that was meant is checked, and spoken of in errors.
    Discriminator(lambda value: "range" if isinstance(value, dict | WorkerRange) else "number"),
]


class ScalingConfig(_Section):
    workers: Workers = 1
    """Ray Train workers, each one process of the data-parallel group. `{min: 1, max: 8}` goes on with as many of them
    as the cluster has room for."""
    resize_every_s: Annotated[float, Field(ge=1.0)] = 60.0
    """How often a run with a range of workers looks for room for more."""
    virtual_workers: Annotated[int, Field(ge=1)] | None = None
    """Equal parts of a global batch, shared out over the workers. Fixes the recipe: a run with the same number
    of virtual workers is the same run on any number of workers. None means as many as `workers`, or its `max`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA when the Ray cluster (or, without Ray, this machine) has GPUs, else CPU."""
    cpus_per_worker: Annotated[float, Field(gt=0.0)] | None = None
    """Ray CPUs reserved for each worker. None divides the CPUs of a local Ray among the workers, at least 1."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """Lost workers after each of which the run restarts from its last checkpoint."""
    collective_timeout_s: Annotated[int, Field(ge=10)] = 600
    """How long a worker waits for the others, all of them alive, before the run restarts."""

    @property
    def min_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def max_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers.max

    @property
    def lanes(self) -> int:
        """The number of virtual workers that applies."""
        return self.virtual_workers or self.max_workers

    @model_validator(mode="after")
    def _check_virtual_workers(self) -> ScalingConfig:
        if self.lanes < self.max_workers:
            raise ValueError(
                f"{self.max_workers} workers cannot share {self.lanes} virtual workers;"
                f" set virtual_workers to {self.max_workers} or more, or use fewer workers"
            )
        return self


class CheckpointConfig(_Section):
    every_epochs: Annotated[int, Field(ge=1)] = 1
    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Also save after every so many optimizer batches within an epoch."""
    every_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """Also save once so many minutes have passed since the last checkpoint, at the next line of the log."""
    background: bool = True
    """Write checkpoints while training goes on, from a copy in memory. Otherwise training waits for each of them."""
    keep_last: Annotated[int, Field(ge=1)] = 2
    keep_best: Annotated[int, Field(ge=0)] = 1
    best_metric: str = "pose_ap"
    """Validation metric that says which checkpoint is best and when to stop early; higher is better."""


class ValidatorConfig(_Section):
    use: str = Field(min_length=1)
    """`pck_report`, `keypoint_guard`, a name that a package offers, or `package.module:Name`."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    """What stands before its metrics; by default the last word of `use`."""
    args: dict[str, Any] = {}
    """Keyword arguments."""


class ValConfig(_Section):
    every_epochs: Annotated[int, Field(ge=1)] = 1
    """Validate after every so many epochs, and always after the last."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Images that one worker predicts at a time."""
    conf: Fraction = 0.001
    """Predictions below this confidence are dropped before AP is measured."""
    iou: Fraction = 0.7
    """Non-maximum suppression drops boxes that overlap a better one by more than this IoU."""
    max_det: Annotated[int, Field(ge=1)] = 300
    """Most people predicted in one image. COCO's keypoint AP looks at the best 20."""
    pictures: Annotated[int, Field(ge=0)] = 8
    """How many of the best and of the worst validation images the report shows, and twice as many as of each fault."""
    training_images: Annotated[int, Field(ge=0)] = 256
    """Training images that are measured like validation images at the end of the run, to show how well it fits."""
    protocol: Literal["coco", "crowdpose"] = "coco"
    """Whose rules AP and AR follow. `crowdpose`: areas by box, no ranges of size, but easy, medium and hard images."""
    sigmas: Annotated[tuple[Annotated[float, Field(gt=0.0)], ...], Field(strict=False)] | None = None
    """OKS sigmas to measure with, one for each keypoint. None takes those of the skeleton."""
    validators: Annotated[tuple[ValidatorConfig, ...], Field(strict=False)] = ()
    """Measures of your own: a list of `{use, name, args}`."""


class MlflowConfig(_Section):
    tracking_uri: str | None = None
    """Server or store. None: `$MLFLOW_TRACKING_URI`, else what MLflow takes by itself."""
    experiment: str = "raypose"


class WandbConfig(_Section):
    project: str = "raypose"
    entity: str | None = None
    """Team or user. None: that of the login."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes files below `$WANDB_DIR`, by default `wandb/`, for `wandb sync`."""


class CallbackConfig(_Section):
    use: str = Field(min_length=1)
    """A name that a package offers, or `package.module:Name`."""
    args: dict[str, Any] = {}
    """Keyword arguments."""


class TelemetryConfig(_Section):
    tensorboard: bool = True
    """Write TensorBoard event files below the run."""
    log_every_steps: Annotated[int, Field(ge=1)] = 10
    """Steps between two lines of `metrics.jsonl` and two refreshes of the progress display."""
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Where the driver answers Prometheus' scrapes at `/metrics`. 0 takes a free port and says which; None answers
    none."""
    prometheus_host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` lets other machines scrape."""
    mlflow: MlflowConfig | None = None
    """Log to MLflow: `{tracking_uri, experiment}`. Needs `raypose[mlflow]`."""
    wandb: WandbConfig | None = None
    """Log to Weights & Biases: `{project, entity, mode}`. Needs `raypose[wandb]`."""
    callbacks: Annotated[tuple[CallbackConfig, ...], Field(strict=False)] = ()
    """Code of your own that hears the run's events: a list of `{use, args}`."""


class RunConfig(_Section):
    """A whole training run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The run's folder below `storage`."""
    storage: Place = "runs"
    """Folder, or place in object storage, that receives the run."""
    model: ModelConfig = ModelConfig()
    data: DataConfig
    train: TrainConfig = TrainConfig()
    augment: AugmentConfig = AugmentConfig()
    scaling: ScalingConfig = ScalingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    val: ValConfig = ValConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="after")
    def _check_batch(self) -> RunConfig:
        lanes = self.scaling.lanes
        if self.train.batch % lanes:
            lower = self.train.batch // lanes * lanes
            choices = f"{lower} or {lower + lanes}" if lower else f"{lanes}"
            raise ValueError(
                f"train.batch {self.train.batch} cannot be divided among {lanes} virtual workers"
                f" (scaling.virtual_workers, by default scaling.workers); use {choices}"
            )
        return self

    @model_validator(mode="after")
    def _check_device_augment(self) -> RunConfig:
        if self.train.device_augment and (self.augment.mixup or self.augment.cutmix):
            raise ValueError(
                "train.device_augment draws no augment.mixup and augment.cutmix; set both to 0, or it to false"
            )
        return self

    @property
    def micro_batch(self) -> int:
        """Images of one virtual worker in one step."""
        return self.train.batch // self.scaling.lanes

    def located(self, folder: Path) -> RunConfig:
        """The same run with local paths made absolute: Ray's workers run in folders of their own."""

        def absolute(place: str) -> str:
            return absolute_place(place, folder)

        pretrained, cache_dir = self.model.pretrained, self.data.cache_dir
        if cache_dir and not cache_dir.startswith("~"):  # each node has a home of its own
            cache_dir = absolute(cache_dir)
        return self.model_copy(
            update={
                "storage": absolute(self.storage),
                "data": self.data.model_copy(
                    update={
                        "train": absolute(self.data.train),
                        "val": absolute(self.data.val),
                        "cache_dir": cache_dir,
                    }
                ),
                "model": self.model.model_copy(update={"pretrained": pretrained and absolute(pretrained)}),
            }
        )

    def recipe_digest(self) -> str:
        """SHA-256 of what decides how training goes on: a checkpoint resumes only under the recipe it was made with.

        Where the first weights came from is not part of it: a checkpoint has its own.
        """
        recipe = self.model_dump(
            mode="json",
            include={
                "model": {"architecture"},
                "train": True,
                "augment": True,
                "data": {"shuffle_window"},
            },
            # Chosen when it is too late for the run that needs it: a run that stopped is resumed with another answer.
            exclude={"train": {"on_bad_loss", "max_bad_steps"}},
        )
        del recipe["train"]["profile"]
        for later in ("sync_bn", "compile"):
            if not recipe["train"][later]:
                del recipe["train"][later]  # a run from before there was such a setting is the same recipe
        recipe["virtual_workers"] = self.scaling.lanes
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _nearest_multiple(pixels: int) -> int:
    return max(STRIDE, round(pixels / STRIDE) * STRIDE)
