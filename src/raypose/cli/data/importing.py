"""`raypose data import`: other people's formats into shard sets."""

from __future__ import annotations

from typing import Annotated

import typer

from raypose.cli.data.build import OnRay, OutOption, Overwrite, ShardMib, Workers, build_from

ImagesOption = Annotated[str, typer.Option(help="Folder or s3:// URL of the images.")]


def coco(
    images: ImagesOption,
    annotations: Annotated[str, typer.Option(help="Keypoint JSON, such as person_keypoints_train2017.json.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Import a COCO keypoint JSON with its images."""
    from raypose.data.importers.coco import read_coco

    build_from(read_coco(annotations, images), out, shard_mib, overwrite, workers, ray)


def yolo(
    data_yaml: Annotated[str, typer.Argument(help="Ultralytics' data.yaml of a pose data set.")],
    split: Annotated[str, typer.Option(help="train, val or test.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Import one split of an Ultralytics data set with YOLO text labels."""
    from raypose.data.importers.yolo_txt import read_yolo

    build_from(read_yolo(data_yaml, split), out, shard_mib, overwrite, workers, ray)


def mpii(
    images: ImagesOption,
    annotations: Annotated[str, typer.Option(help="mpii_human_pose_v1_u12_1.mat, or train.json or valid.json.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Import MPII Human Pose: its MAT-file, or the JSON that HRNet and mmpose use."""
    from raypose.data.importers.mpii import read_mpii

    build_from(read_mpii(annotations, images), out, shard_mib, overwrite, workers, ray)


def crowdpose(
    images: ImagesOption,
    annotations: Annotated[str, typer.Option(help="JSON of a split, such as crowdpose_train.json.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Import CrowdPose with its 14 keypoints."""
    from raypose.data.importers.crowdpose import read_crowdpose

    build_from(read_crowdpose(annotations, images), out, shard_mib, overwrite, workers, ray)


def cvat(
    images: ImagesOption,
    annotations: Annotated[str, typer.Option(help="annotations.xml of a 'CVAT for images 1.1' export.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Import skeletons, or sets of points, and boxes from CVAT."""
    from raypose.data.importers.cvat import read_cvat

    build_from(read_cvat(annotations, images), out, shard_mib, overwrite, workers, ray)


def label_studio(
    images: ImagesOption,
    annotations: Annotated[str, typer.Option(help="The project's export in the format 'JSON'.")],
    out: OutOption,
    keypoints: Annotated[str, typer.Option(help="Keypoint names in order, separated by commas.")] = "",
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
    workers: Workers = None,
    ray: OnRay = None,
) -> None:
    """Import keypoints and rectangles from Label Studio."""
    from raypose.data.importers.label_studio import read_label_studio

    names = [name.strip() for name in keypoints.split(",") if name.strip()]
    build_from(read_label_studio(annotations, images, names), out, shard_mib, overwrite, workers, ray)
