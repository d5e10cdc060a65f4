"""Every metric that a run exposes, in one table: the exporter, docs/monitoring.md and dashboards follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STEP_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a small model on a good GPU to a large one on few CPU cores."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` come after `run`, which all have; a counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


RUN_INFO = Metric(
    "raypose_run_info",
    "gauge",
    "",
    "Always 1; says what is trained on what.",
    ("architecture", "optimizer", "device", "precision"),
)
RUN_FINISHED = Metric("raypose_run_finished", "gauge", "", "1 once the run has ended and its summary is written.")
RESTART_CAUSES = ("preempted", "out_of_memory", "node_lost", "worker_lost", "worker_hung", "error", "unknown")
"""What ends workers, most telling first. One lost worker makes the others fail with errors, which tell less."""
RESTARTS = Metric("raypose_restarts_total", "counter", "", "Restarts of the workers, by cause.", ("cause",))
WORKERS = Metric("raypose_workers", "gauge", "", "Workers that train.")
STEP = Metric("raypose_train_step", "gauge", "", "Batches trained; falls back where a restart does some again.")
STEPS_PLANNED = Metric("raypose_train_steps_planned", "gauge", "", "Batches of the whole run.")
EPOCH = Metric("raypose_train_epoch", "gauge", "", "Epochs of data trained, with a fraction.")
STEP_SECONDS = Metric(
    "raypose_train_step_seconds", "histogram", "seconds", "Time of a step, waiting for data included."
)
SAMPLES = Metric("raypose_train_samples_total", "counter", "", "Training images given to the model, by all workers.")
IMAGES = Metric("raypose_data_images_total", "counter", "", "Images decoded by the leader; a mosaic takes four.")
BAD_IMAGES = Metric("raypose_data_bad_images_total", "counter", "", "Images that did not decode, of all workers.")
FETCHED = Metric(
    "raypose_data_fetched_bytes_total",
    "counter",
    "bytes",
    "Shards that came into the cache of the leader's node, for all that share it. 0 where shards are read in place.",
)
DATA_BYTES = Metric("raypose_data_bytes", "gauge", "bytes", "Shards of the training and the validation set.")
DATA_WAIT = Metric("raypose_train_data_wait_seconds_total", "counter", "seconds", "Time training waited for data.")
SYNC = Metric(
    "raypose_train_sync_seconds_total",
    "counter",
    "seconds",
    "Time between a worker's own gradients and everybody's. 0 on GPUs, where it overlaps.",
)
VAL_SECONDS = Metric("raypose_val_seconds_total", "counter", "seconds", "Time spent on validation.")
CHECKPOINT_BLOCKED = Metric(
    "raypose_checkpoint_blocked_seconds_total", "counter", "seconds", "Time training stood still for checkpoints."
)
CHECKPOINTS = Metric("raypose_checkpoints_total", "counter", "", "Checkpoints completed in storage.")
CHECKPOINT_AGE = Metric(
    "raypose_checkpoint_age_seconds",
    "gauge",
    "seconds",
    "Time since the last checkpoint or, before the first, since the start: what a loss would cost.",
)
LOSS = Metric("raypose_train_loss", "gauge", "", "Training losses, means over the last steps.", ("loss",))
LEARNING_RATE = Metric("raypose_train_learning_rate", "gauge", "", "Learning rate of a parameter group.", ("group",))
GRADIENT_NORM = Metric("raypose_train_gradient_norm", "gauge", "", "Norm of the last gradient, before clipping.")
MEMORY = Metric(
    "raypose_train_memory_bytes", "gauge", "bytes", "Most memory the leader has held: of its GPU, or resident."
)
VAL_METRIC = Metric("raypose_val_metric", "gauge", "", "Result of the last validation.", ("metric",))

METRICS = (
    RUN_INFO, RUN_FINISHED, RESTARTS, WORKERS, STEP, STEPS_PLANNED, EPOCH, STEP_SECONDS, SAMPLES, IMAGES, BAD_IMAGES,
    FETCHED, DATA_BYTES, DATA_WAIT, SYNC, VAL_SECONDS, CHECKPOINT_BLOCKED, CHECKPOINTS, CHECKPOINT_AGE, LOSS,
    LEARNING_RATE, GRADIENT_NORM, MEMORY, VAL_METRIC,
)  # fmt: skip
