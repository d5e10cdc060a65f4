"""How fast is validation? raypose against pycocotools and Ultralytics.

    python benchmarks/evaluate.py [--images 5000] [--detections 20] [--repeats 3] [--work FOLDER] [--weights MODEL.pt]

Measuring, 5,000 images with 20 detections each:

`ratio`: seconds of pycocotools (keypoint evaluate and accumulate, its index already built) over seconds of raypose's
whole `evaluate`, which also measures boxes, PCK and curves. `ratio_ultralytics`: seconds of Ultralytics' validator on
the same predictions (box and OKS similarity, matching, AP per class) over the same. Best of the repeats, one thread.

Predicting and measuring: `ratio_val`, images a second of `raypose val` over those of `yolo pose val`, see
`val_throughput.py`. The last line is JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from val_throughput import compare_val

from raypose.evaluate import evaluate
from raypose.structures import COCO_PERSON, ImageResult, People, Poses


def make_results(images: int, detections: int, people: int = 3, seed: int = 0) -> list[ImageResult]:
    """People of many sizes; the detections are noisy copies of them with rising noise and falling scores."""
    rng = np.random.default_rng(seed)
    results = []
    for number in range(images):
        side_N = rng.uniform(40, 300, people)
        corner_N2 = rng.uniform(0, 340, (people, 2))
        box_xyxy_N4 = np.concatenate([corner_N2, corner_N2 + side_N[:, None]], axis=1).astype(np.float32)
        xy_NK2 = corner_N2[:, None] + rng.uniform(0, 1, (people, 17, 2)) * side_N[:, None, None]
        visibility_NK1 = rng.integers(0, 3, (people, 17, 1))
        visibility_NK1[:, 0] = 2
        truth = People(
            box_xyxy_N4,
            np.concatenate([xy_NK2 * (visibility_NK1 > 0), visibility_NK1], axis=2).astype(np.float32),
            np.zeros(people, np.int64),
            (0.53 * side_N**2).astype(np.float32),
            np.zeros(people, np.bool_),
            np.zeros(people, np.bool_),
        )
        copy_P = np.arange(detections) % people
        spread_P = side_N[copy_P] * np.linspace(0.01, 0.3, detections)
        xy_PK2 = xy_NK2[copy_P] + rng.normal(0, 1, (detections, 17, 2)) * spread_P[:, None, None]
        results.append(
            ImageResult(
                f"{number:06d}",
                640,
                640,
                truth,
                Poses(
                    (box_xyxy_N4[copy_P] + rng.normal(0, 1, (detections, 4)) * spread_P[:, None]).astype(np.float32),
                    np.sort(rng.uniform(0, 1, detections))[::-1].astype(np.float32),
                    np.zeros(detections, np.int64),
                    np.concatenate([xy_PK2, np.ones((detections, 17, 1))], axis=2).astype(np.float32),
                ),
            )
        )
    return results


def best_seconds(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The fastest of `repeats` runs, and what the last one returned."""
    seconds, outcome = [], None
    for _ in range(repeats):
        begin = time.perf_counter()
        outcome = action()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), outcome


def as_coco(results: list[ImageResult]) -> tuple[Any, Any]:
    """The same data set and results as pycocotools' indexed objects."""
    from pycocotools.coco import COCO

    people, predictions = [], []
    for number, result in enumerate(results):
        for n in range(len(result.people)):
            box = result.people.box_xyxy_N4[n].astype(float)
            keypoints_K3 = result.people.keypoints_NK3[n].astype(float)
            people.append(
                {
                    "id": len(people) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "area": float(result.people.area_N[n]),
                    "iscrowd": 0,
                    "keypoints": keypoints_K3.ravel().tolist(),
                    "num_keypoints": int((keypoints_K3[:, 2] > 0).sum()),
                }
            )
        for p in range(len(result.poses)):
            box = result.poses.box_xyxy_N4[p].astype(float)
            predictions.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "score": float(result.poses.score_N[p]),
                    "keypoints": result.poses.keypoints_NK3[p].astype(float).ravel().tolist(),
                }
            )
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(len(results))],
        "annotations": people,
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    return truth, truth.loadRes(predictions)


def run_pycocotools(truth: Any, found: Any) -> list[float]:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, found, "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def ultralytics_run(results: list[ImageResult]) -> Callable[[], Any]:
    """Ultralytics' pose validator on tensors that are ready, from similarity to mAP."""
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.models.yolo.pose import PoseValidator
    from ultralytics.utils.metrics import PoseMetrics

    torch.set_num_threads(1)
    images = []
    for result in results:
        people, poses = result.people, result.poses
        images.append(
            (
                {
                    "bboxes": torch.from_numpy(poses.box_xyxy_N4),
                    "conf": torch.from_numpy(poses.score_N),
                    "cls": torch.from_numpy(poses.class_N).float(),
                    "keypoints": torch.from_numpy(poses.keypoints_NK3),
                },
                {
                    "bboxes": torch.from_numpy(people.box_xyxy_N4),
                    "cls": torch.from_numpy(people.class_N).float(),
                    "keypoints": torch.from_numpy(people.keypoints_NK3),
                    "im_file": result.id,
                },
            )
        )

    def run() -> Any:
        validator = PoseValidator(args=get_cfg(overrides={"task": "pose", "plots": False}))
        validator.sigma = np.array(COCO_PERSON.sigmas)
        metrics = PoseMetrics({0: "person"})
        for predictions, truth in images:
            statistics = {
                "conf": predictions["conf"].numpy(),
                "pred_cls": predictions["cls"].numpy(),
                "target_cls": truth["cls"].numpy(),
                "target_img": truth["cls"].unique().numpy(),
                "im_name": truth["im_file"],
            }
            metrics.update_stats(validator._process_batch(predictions, truth) | statistics)
        metrics.process()
        return metrics.results_dict

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where ratio_val's images and model go; by default nothing stays")
    parser.add_argument("--weights", type=Path, help="COCO-keypoint model for ratio_val; by default one is trained")
    parser.add_argument("--val-images", type=int, nargs=2, default=(32, 288), metavar=("SMALL", "LARGE"))
    arguments = parser.parse_args()
    results = make_results(arguments.images, arguments.detections)

    ours_s, evaluation = best_seconds(lambda: evaluate(results, COCO_PERSON, ["person"]), arguments.repeats)
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = as_coco(results)
    coco_s, stats = best_seconds(lambda: run_pycocotools(truth, found), 1)
    ultralytics_s, theirs = best_seconds(ultralytics_run(results), arguments.repeats)

    difference = abs(stats[0] - evaluation.metrics["pose_ap"])
    print(f"{arguments.images} images, {arguments.detections} detections each, one thread")
    print(f"raypose      {ours_s:8.2f} s  AP {evaluation.metrics['pose_ap']:.6f}")
    print(f"pycocotools  {coco_s:8.2f} s  AP {stats[0]:.6f}  (difference {difference:.1e})")
    print(f"ultralytics  {ultralytics_s:8.2f} s  mAP50-95(P) {theirs['metrics/mAP50-95(P)']:.6f}")
    figures = {
        "seconds": round(ours_s, 3),
        "seconds_pycocotools": round(coco_s, 3),
        "seconds_ultralytics": round(ultralytics_s, 3),
        "ratio": round(coco_s / ours_s, 2),
        "ratio_ultralytics": round(ultralytics_s / ours_s, 2),
        "ap_difference": difference,
    }
    with tempfile.TemporaryDirectory(prefix="raypose-bench-") as scratch:
        work = (arguments.work or Path(scratch)).absolute()
        small, large = arguments.val_images
        figures |= compare_val(work, arguments.weights, small=small, large=large, repeats=arguments.repeats)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
