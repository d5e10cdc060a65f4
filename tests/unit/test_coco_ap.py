"""AP and AR are COCO's: pycocotools is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypose.errors import DataError
from raypose.evaluate.coco import AREAS, BOX_MAX_DETECTIONS, precision_recall
from raypose.evaluate.coco_files import read_annotations, read_results
from raypose.evaluate.foreign import evaluate_files
from raypose.evaluate.matching import compare_boxes
from tests.coco_problems import Json, oracle, random_problem, write

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared/data/metrics-golden"
GOLDEN_PAIRS = [
    ("fce_keypoints_dt_dataset.json", "fce_keypoints_gt_dataset.json"),
    *((f"merged_dt_noise{noise}.json", "merged_gt.json") for noise in ("0.0", "0.5", "1.0", "2.0")),
]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/data/metrics-golden is absent")
@pytest.mark.parametrize(("predictions", "annotations"), GOLDEN_PAIRS)
def test_golden_pairs_equal_pycocotools(predictions: str, annotations: str) -> None:
    ours = evaluate_files(GOLDEN / predictions, GOLDEN / annotations)
    theirs = oracle(GOLDEN / predictions, GOLDEN / annotations)
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-9)
    assert list(ours) == ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), boxed=st.booleans())
def test_random_problems_equal_pycocotools(tmp_path_factory: pytest.TempPathFactory, seed: int, boxed: bool) -> None:
    truth, results = random_problem(seed)
    if not results:
        return
    if not boxed:
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    files = write(tmp_path_factory.mktemp("problem"), truth, results)
    assert list(evaluate_files(*files).values()) == pytest.approx(oracle(*files), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_box_ap_equals_pycocotools(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    truth, results = random_problem(seed)
    if not results:
        return
    predictions, annotations = write(tmp_path_factory.mktemp("problem"), truth, results)
    labels = read_annotations(annotations)
    found = read_results(predictions, labels)
    comparison = compare_boxes(labels.truth, found, BOX_MAX_DETECTIONS)
    box = precision_recall(comparison, labels.truth.ignore_box_M, classes=2, areas={"all": AREAS["all"]})
    ours = [box.ap(), box.ap(threshold=0.5), box.ap(threshold=0.75), box.ar()]
    theirs = oracle(predictions, annotations, "bbox")
    expected = [float("nan") if value == -1 else value for value in (*theirs[:3], theirs[8])]
    assert ours == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_results_file_order_and_text_ids_do_not_matter(tmp_path: Path) -> None:
    truth, results = random_problem(3)
    for rank, result in enumerate(results):
        result["score"] = 0.9 - 0.001 * rank
    expected = evaluate_files(*write(tmp_path, truth, results))
    for entry in truth["images"]:
        entry["id"] = f"{entry['id']:012d}"
    for entry in (*truth["annotations"], *results):
        entry["image_id"] = f"{entry['image_id']:012d}"
    assert evaluate_files(*write(tmp_path, truth, results[::-1])) == expected


def test_no_results_score_zero_and_sizes_without_people_score_minus_one(tmp_path: Path) -> None:
    truth, _ = random_problem(3)
    truth["annotations"] = [
        person | {"area": 20_000.0}
        for person in truth["annotations"]
        if person["num_keypoints"] and not person["iscrowd"]
    ]
    metrics = evaluate_files(*write(tmp_path, truth, []))
    assert metrics["AP"] == metrics["AR"] == metrics["APl"] == 0
    assert metrics["APm"] == metrics["ARm"] == -1


def test_other_skeletons_without_sigmas_are_warned_about(tmp_path: Path) -> None:
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "area": 10_000, "iscrowd": 0}
    # The offset of 100 px at sigma 1/2 gives exp(-100² / (2 · 10000 · (2/2)²)) = exp(-1/2) = 0.61: only 3 thresholds.
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "keypoints": ["tail", "head"]}],
        "annotations": [person | {"keypoints": [0, 0, 2, 10, 10, 2], "num_keypoints": 2}],
    }
    results = [{"image_id": 1, "category_id": 1, "score": 1.0, "keypoints": [100, 0, 1, 110, 10, 1]}]
    files = write(tmp_path, truth, results)
    with pytest.warns(UserWarning, match="no OKS sigmas; used 1/2"):
        assert evaluate_files(*files)["AR"] == pytest.approx(0.3)
    truth["categories"][0]["sigmas"] = [0.05, 0.05]
    assert evaluate_files(*write(tmp_path, truth, results))["AR"] == 0


def drop(key: str) -> Callable[[Json], Json]:
    return lambda result: {name: value for name, value in result.items() if name != key}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (drop("score"), "has no score"),
        (drop("keypoints"), "has no keypoints, expected 51"),
        (lambda result: result | {"keypoints": [1.0, 2.0]}, "2 values, expected 51"),
        (lambda result: result | {"keypoints": [[1.0, 2.0, 1.0]] * 17}, "expected 51 finite numbers in a flat list"),
        (lambda result: result | {"keypoints": [float("nan")] * 51}, "expected 51 finite"),
        (lambda result: result | {"keypoints": [[1.0], 2.0]}, "ragged"),
        (lambda result: result | {"score": "high"}, "score has 'high'"),
        (lambda result: result | {"image_id": 999}, "999 is not in the annotations"),
        (lambda result: result | {"image_id": str(result["image_id"])}, "not in the annotations, whose ids are like"),
        (lambda result: result | {"image_id": [1]}, "expected a number or text"),
        (lambda result: "person", "is a str, expected an object"),
    ],
)
def test_a_wrong_result_is_named(tmp_path: Path, spoil: Callable[[Json], object], complaint: str) -> None:
    truth, results = random_problem(3)
    files = write(tmp_path, truth, [*results, spoil(results[0])])
    with pytest.raises(DataError, match=complaint) as caught:
        evaluate_files(*files)
    assert f"result {len(results)}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a list"),
        ("{}", "no list of objects 'annotations'"),
        ('{"annotations": [], "images": [{"id": 1}], "categories": [{"id": 1}]}', "has keypoints"),
        ('{"annotations": [], "images": [{"id": 1}, {"id": "a"}], "categories": []}', "some ids are text"),
    ],
)
def test_a_wrong_annotation_file_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    predictions, annotations = write(tmp_path, {}, [])
    annotations.write_text(content)
    with pytest.raises(DataError, match=complaint) as caught:
        evaluate_files(predictions, annotations)
    assert "annotations.json" in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        evaluate_files(predictions, tmp_path / "absent.json")
