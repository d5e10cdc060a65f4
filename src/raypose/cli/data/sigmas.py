"""`raypose data sigmas`: OKS sigmas from several annotators' labels of the same images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from raypose.errors import DataError

FEW_PAIRS = 30
"""Pairs of labels below which a sigma is called uncertain: its error is then above a tenth of it."""


def sigmas(
    labellings: Annotated[list[Path], typer.Argument(help="COCO keypoint JSON, one from each annotator.")],
) -> None:
    """Estimate a skeleton's OKS sigmas from how far annotators disagree; prints them for dataset.yaml."""
    from raypose.evaluate.annotators import estimate_sigmas
    from raypose.evaluate.coco_files import read_annotations

    if len(labellings) < 2:
        raise DataError(
            f"{labellings[0]}: one labelling does not tell how well keypoints can be labelled; give two or more files"
            " that label the same images, each by another annotator"
        )
    estimate = estimate_sigmas([read_annotations(path) for path in labellings])
    rows = list(zip(estimate.skeleton.names, estimate.sigma_K.tolist(), estimate.pairs_K.tolist(), strict=True))
    for name, sigma, pairs in rows:
        doubt = "  few: label more images twice" if pairs < FEW_PAIRS else ""
        typer.echo(f"{name:<24}{'-' if math.isnan(sigma) else f'{sigma:.4f}':>8}  {pairs} pairs of labels{doubt}")
    missing = [name for name, sigma, _ in rows if math.isnan(sigma)]
    if missing:
        raise DataError(f"sigmas: nobody labelled {', '.join(missing)} twice; label more images twice")
    typer.echo(f"\nsigmas: [{', '.join(f'{sigma:.4f}' for _, sigma, _ in rows)}]")
