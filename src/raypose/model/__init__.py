"""The one layer that knows Ultralytics: models, losses, optimizers, weights, decoding and export."""

from raypose.model.bfloat16 import compute_in_bfloat16, multiplies_bfloat16
from raypose.model.export import ExportFormat, ExportMetadata, export_model
from raypose.model.norm_silu import normalise_in_one_go
from raypose.model.optimizer import OptimizerChoice, accumulated_batches, build_optimizer, choose_optimizer
from raypose.model.postprocess import RawPoses, select_poses
from raypose.model.pretrained import TransferReport, load_model, load_pretrained
from raypose.model.tracking import Tracker, poses_above, tracked_conf
from raypose.model.yolo import (
    ModelSpec,
    build_model,
    compute_joint_losses,
    compute_loss,
    freeze_layers,
    inference_view,
    is_end2end,
    loss_names,
    portable_copy,
    set_epoch,
    set_train_mode,
    targets_from_batch,
    write_portable,
)

__all__ = [
    "ExportFormat",
    "ExportMetadata",
    "ModelSpec",
    "OptimizerChoice",
    "RawPoses",
    "Tracker",
    "TransferReport",
    "accumulated_batches",
    "build_model",
    "build_optimizer",
    "choose_optimizer",
    "compute_in_bfloat16",
    "compute_joint_losses",
    "compute_loss",
    "export_model",
    "freeze_layers",
    "inference_view",
    "is_end2end",
    "load_model",
    "load_pretrained",
    "loss_names",
    "multiplies_bfloat16",
    "normalise_in_one_go",
    "portable_copy",
    "poses_above",
    "select_poses",
    "set_epoch",
    "set_train_mode",
    "targets_from_batch",
    "tracked_conf",
    "write_portable",
]
