"""`raypose data import`: other people's formats into shard sets."""

from __future__ import annotations

from typing import Annotated

import typer

from raypose.cli.data.build import OutOption, Overwrite, ShardMib, build_from


def coco(
    images: Annotated[str, typer.Option(help="Folder or s3:// URL of the images.")],
    annotations: Annotated[str, typer.Option(help="Keypoint JSON, such as person_keypoints_train2017.json.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
) -> None:
    """Import a COCO keypoint JSON with its images."""
    from raypose.data.importers.coco import read_coco

    build_from(read_coco(annotations, images), out, shard_mib, overwrite)


def yolo(
    data_yaml: Annotated[str, typer.Argument(help="Ultralytics' data.yaml of a pose data set.")],
    split: Annotated[str, typer.Option(help="train, val or test.")],
    out: OutOption,
    shard_mib: ShardMib = 64,
    overwrite: Overwrite = False,
) -> None:
    """Import one split of an Ultralytics data set with YOLO text labels."""
    from raypose.data.importers.yolo_txt import read_yolo

    build_from(read_yolo(data_yaml, split), out, shard_mib, overwrite)
