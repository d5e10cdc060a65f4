"""Made-up COCO keypoint files, and pycocotools as the oracle for them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Json = dict[str, Any]


def oracle(
    predictions: Path,
    annotations: Path,
    kind: str = "keypoints",
    *,
    sigmas: Sequence[float] | None = None,
    only_images: Sequence[Any] | None = None,
) -> list[float]:
    """What pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes(str(predictions)), kind)
        if sigmas is not None:
            judge.params.kpt_oks_sigmas = np.array(sigmas)
        if only_images is not None:
            judge.params.imgIds = list(only_images)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def random_problem(seed: int, keypoints: int = 17) -> tuple[Json, list[Json]]:
    """Two categories, crowds, people without keypoints, equal scores, more than 20 predictions, all sizes."""
    rng = np.random.default_rng(seed)
    images = [{"id": int(i), "width": 640, "height": 640} for i in rng.permutation(12)[:6] + 1]
    people: list[Json] = []
    results: list[Json] = []
    for image in images:
        for _ in range(int(rng.integers(0, 6))):
            side = float(rng.choice([20.0, 60.0, 200.0]))
            box = [*rng.uniform(0, 400, 2), side, side * rng.uniform(0.5, 1.5)]
            points = rng.uniform(0, 1, (keypoints, 2)) * box[2:] + box[:2]
            visibility = rng.integers(0, 3, keypoints) * (rng.random() > 0.2)
            person = {
                "id": len(people) + 1,
                "image_id": image["id"],
                "category_id": int(rng.integers(1, 3)),
                "bbox": [float(value) for value in box],
                "area": float(box[2] * box[3] * rng.uniform(0.3, 1.0)),
                "iscrowd": int(rng.random() < 0.15),
                "keypoints": np.column_stack([points * (visibility[:, None] > 0), visibility]).ravel().tolist(),
                "num_keypoints": int((visibility > 0).sum()),
            }
            people.append(person)
            for _ in range(int(rng.integers(0, 8))):
                noisy = points + rng.normal(0, side * rng.choice([0.0, 0.02, 0.1]), (keypoints, 2))
                results.append(result_like(person, noisy, float(rng.integers(0, 12)) / 10))
    names = [str(k) for k in range(keypoints)]
    categories = [{"id": 1, "name": "a", "keypoints": names}, {"id": 2, "name": "b", "keypoints": names}]
    order = rng.permutation(len(results))
    truth = {"images": images, "annotations": people, "categories": categories}
    return truth, [results[int(i)] for i in order]


def result_like(person: Json, points: np.ndarray, score: float) -> Json:
    """A result for the image and category of `person`."""
    return {
        "image_id": person["image_id"],
        "category_id": person["category_id"],
        "score": score,
        "bbox": [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()],
        "keypoints": np.column_stack([points, np.ones(len(points))]).ravel().tolist(),
    }


def write(folder: Path, truth: Json, results: object) -> tuple[Path, Path]:
    """Both as files: predictions and annotations."""
    predictions, annotations = folder / "predictions.json", folder / "annotations.json"
    predictions.write_text(json.dumps(results))
    annotations.write_text(json.dumps(truth))
    return predictions, annotations
