"""What must hold of every evaluation: it depends on nothing but the poses, and better poses never score worse."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raypose import api
from raypose.cli.root import app
from raypose.errors import DataError
from raypose.evaluate import evaluate
from raypose.structures import COCO_PERSON, ImageResult, People, Poses, Skeleton

CLASSES = ("person", "athlete")
seeds = st.integers(0, 2**32)


def random_results(seed: int, images: int = 6) -> list[ImageResult]:
    """Noisy predictions with distinct scores, people of two classes, some of them crowds or unlabelled."""
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(1000) / 1000)
    results = []
    for number in range(images):
        count = int(rng.integers(1, 5))
        side_N = rng.choice([40.0, 120.0], count)
        corner_N2 = rng.uniform(0, 300, (count, 2))
        box_xyxy_N4 = np.concatenate([corner_N2, corner_N2 + side_N[:, None]], axis=1).astype(np.float32)
        xy_NK2 = corner_N2[:, None] + rng.uniform(0, 1, (count, 17, 2)) * side_N[:, None, None]
        visibility_NK1 = rng.integers(0, 3, (count, 17, 1)) * (rng.random((count, 1, 1)) > 0.2)
        class_N = rng.integers(0, 2, count)
        crowd_N = rng.random(count) < 0.1
        people = People(
            box_xyxy_N4,
            np.concatenate([xy_NK2, visibility_NK1], axis=2).astype(np.float32),
            class_N,
            np.where(rng.random(count) < 0.5, np.nan, 0.6 * side_N**2).astype(np.float32),
            crowd_N | ~(visibility_NK1 > 0).any(axis=(1, 2)),
            crowd_N,
        )
        twice = np.repeat(np.arange(count), 2)
        noise_PK2 = rng.normal(0, 1, (2 * count, 17, 2)) * (side_N[twice] * rng.choice([0.01, 0.1]))[:, None, None]
        poses = Poses(
            box_xyxy_N4[twice] + rng.normal(0, 3, (2 * count, 4)).astype(np.float32),
            np.array([next(scores) for _ in twice], np.float32),
            class_N[twice],
            np.concatenate([xy_NK2[twice] + noise_PK2, np.ones((2 * count, 17, 1))], axis=2).astype(np.float32),
        )
        results.append(ImageResult(f"{number:03d}", 500, 500, people, poses))
    return results


def as_json(results: list[ImageResult]) -> str:
    return json.dumps(evaluate(results, COCO_PERSON, CLASSES).to_dict(), allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_order_of_images_and_predictions_changes_no_bit(seed: int) -> None:
    results = random_results(seed)
    rng = np.random.default_rng(seed)
    shuffled = []
    for index in rng.permutation(len(results)):
        result = results[index]
        order = rng.permutation(len(result.poses))
        poses = Poses(*(getattr(result.poses, field.name)[order] for field in dataclasses.fields(Poses)))
        shuffled.append(dataclasses.replace(result, poses=poses))
    assert as_json(shuffled) == as_json(results)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, prefix=st.text(max_size=4))
def test_how_images_are_named_and_how_large_they_say_they_are_changes_nothing(seed: int, prefix: str) -> None:
    results = random_results(seed)
    renamed = [
        dataclasses.replace(result, id=f"{prefix}/{9 - place}", width=4000, height=1)
        for place, result in enumerate(results)
    ]
    # Another order of images adds up in another order.
    before, after = (evaluate(some, COCO_PERSON, CLASSES).metrics for some in (results, renamed))
    assert after == pytest.approx(before, rel=1e-12, nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_crowdpose_measures_everything_but_pose_ap_alike_and_does_not_look_at_areas(seed: int) -> None:
    results = random_results(seed)
    unmeasured = [
        dataclasses.replace(
            result, people=dataclasses.replace(result.people, area_N=np.full_like(result.people.area_N, 1))
        )
        for result in results
    ]
    crowdpose, other, by_coco = (
        evaluate(results, COCO_PERSON, CLASSES, protocol="crowdpose"),
        evaluate(unmeasured, COCO_PERSON, CLASSES, protocol="crowdpose"),
        evaluate(results, COCO_PERSON, CLASSES),
    )
    assert other.metrics == pytest.approx(crowdpose.metrics, nan_ok=True)
    assert {"pose_ap_easy", "pose_ap_medium", "pose_ap_hard"} == crowdpose.metrics.keys() - by_coco.metrics.keys()
    for name in ("box_ap", "pck_box_10", "keypoint_error_px", "people"):
        assert crowdpose.metrics[name] == pytest.approx(by_coco.metrics[name], nan_ok=True)
    assert any("CrowdPose" in note for note in crowdpose.notes)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
def test_scaling_images_changes_only_pixels_and_sizes(seed: int, factor: float) -> None:
    # Powers of two scale float32 without rounding.
    results = random_results(seed)
    scaled = []
    for result in results:
        people, poses = result.people, result.poses
        xyv = np.array([factor, factor, 1.0], np.float32)
        scaled.append(
            dataclasses.replace(
                result,
                people=dataclasses.replace(
                    people,
                    box_xyxy_N4=people.box_xyxy_N4 * np.float32(factor),
                    keypoints_NK3=people.keypoints_NK3 * xyv,
                    area_N=people.area_N * np.float32(factor**2),
                ),
                poses=dataclasses.replace(
                    poses,
                    box_xyxy_N4=poses.box_xyxy_N4 * np.float32(factor),
                    keypoints_NK3=poses.keypoints_NK3 * xyv,
                ),
            )
        )
    before, after = (evaluate(some, COCO_PERSON, CLASSES).metrics for some in (results, scaled))
    bound_to_pixels = {"pose_ap_m", "pose_ap_l", "pose_ar_m", "pose_ar_l", "keypoint_error_px"}
    assert {name: before[name] for name in before if name not in bound_to_pixels} == pytest.approx(
        {name: after[name] for name in after if name not in bound_to_pixels}, nan_ok=True
    )
    assert after["keypoint_error_px"] == pytest.approx(factor * before["keypoint_error_px"], nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, closer=st.floats(0.0, 1.0))
def test_moving_every_prediction_toward_its_person_lowers_no_score(seed: int, closer: float) -> None:
    rng = np.random.default_rng(seed)
    worse, better = [], []
    for result in random_results(seed):
        alone = result.people.select(np.arange(len(result.people)) == 0)
        target = alone.keypoints_NK3
        offset = rng.normal(0, 8, target.shape).astype(np.float32) * np.array([1, 1, 0], np.float32)
        poses = Poses(alone.box_xyxy_N4, result.poses.score_N[:1], alone.class_N, target + offset)
        worse.append(dataclasses.replace(result, people=alone, poses=poses))
        near = dataclasses.replace(poses, keypoints_NK3=target + offset * np.float32(closer))
        better.append(dataclasses.replace(result, people=alone, poses=near))
    low, high = (evaluate(some, COCO_PERSON, CLASSES).metrics for some in (worse, better))
    for name in ("pose_ap", "pose_ap50", "pose_ap75", "pose_ar", "pck_box_05", "pck_box_10", "pck_auc", "f1"):
        assert math.isnan(low[name]) or high[name] >= low[name] - 1e-6, name
    assert math.isnan(low["keypoint_error_px"]) or high["keypoint_error_px"] <= low["keypoint_error_px"] + 1e-3


def test_perfect_predictions_score_one_everywhere() -> None:
    results = []
    for result in random_results(1):
        sure = result.people.select(~result.people.ignore_N)
        poses = Poses(sure.box_xyxy_N4, np.full(len(sure), 0.9, np.float32), sure.class_N, sure.keypoints_NK3)
        results.append(dataclasses.replace(result, poses=poses, people=sure))
    metrics = evaluate(results, COCO_PERSON, CLASSES).metrics
    for name in ("pose_ap", "pose_ap75", "pose_ar", "box_ap", "precision", "recall", "f1", "pck_box_05", "pck_auc"):
        assert metrics[name] == pytest.approx(1.0), name
    assert metrics["keypoint_error_px"] == 0


def test_unknown_areas_count_as_a_share_of_the_box() -> None:
    results = random_results(2)
    explicit = []
    for result in results:
        size_N2 = result.people.box_xyxy_N4[:, 2:] - result.people.box_xyxy_N4[:, :2]
        area_N = np.where(np.isnan(result.people.area_N), 0.53 * size_N2.prod(axis=1), result.people.area_N)
        people = dataclasses.replace(result.people, area_N=area_N.astype(np.float32))
        explicit.append(dataclasses.replace(result, people=people))
    assert evaluate(results, COCO_PERSON, CLASSES).metrics == pytest.approx(
        evaluate(explicit, COCO_PERSON, CLASSES).metrics, nan_ok=True
    )


def test_people_without_keypoints_count_for_boxes_only() -> None:
    result = random_results(3, images=1)[0]
    bare = result.people.select(np.arange(len(result.people)) == 0)
    bare.keypoints_NK3[:] = 0
    people = dataclasses.replace(bare, ignore_N=np.array([True]), crowd_N=np.array([False]))
    poses = Poses(bare.box_xyxy_N4, np.array([0.9], np.float32), bare.class_N, bare.keypoints_NK3)
    metrics = evaluate([dataclasses.replace(result, people=people, poses=poses)], COCO_PERSON, CLASSES).metrics
    assert metrics["box_ap"] == pytest.approx(1.0)
    assert math.isnan(metrics["pose_ap"])
    assert metrics["people"] == 0


def test_each_class_has_its_own_row_and_the_mean_skips_absent_ones() -> None:
    evaluation = evaluate(random_results(4), COCO_PERSON, (*CLASSES, "nobody"))
    first, second, absent = evaluation.per_class
    assert evaluation.metrics["pose_ap"] == pytest.approx((first.pose_ap + second.pose_ap) / 2)
    assert (absent.people, math.isnan(absent.pose_ap)) == (0, True)
    assert first.people + second.people == evaluation.metrics["people"]


def test_undefined_numbers_become_null_in_json() -> None:
    results = [dataclasses.replace(result, people=People.empty(17)) for result in random_results(5)]
    plain = json.loads(as_json(results))
    assert plain["metrics"]["pose_ap"] is None
    assert plain["metrics"]["images"] == len(results)


def test_counts_are_whole_numbers_in_json_and_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluate(random_results(5), COCO_PERSON, CLASSES)
    monkeypatch.setattr(api, "validate", lambda *_, **__: evaluation)
    as_json = CliRunner().invoke(app, ["val", "runs/demo", "--json"], catch_exceptions=False)
    shown = CliRunner().invoke(app, ["val", "runs/demo"], catch_exceptions=False)
    lines = [line.split() for line in shown.stdout.splitlines()]
    for name in ("images", "people"):
        count = evaluation.metrics[name]
        assert f'"{name}": {count:.0f}' in re.split("[,}] ?", as_json.stdout)
        assert [name, f"{count:.0f}"] in lines


def test_a_skeleton_without_sigmas_is_warned_about_in_the_result() -> None:
    bare = Skeleton(names=COCO_PERSON.names)
    with pytest.warns(UserWarning, match="no OKS sigmas; used 1/17"):
        evaluation = evaluate(random_results(6), bare, CLASSES)
    assert "used 1/17" in evaluation.notes[0]


def test_images_twice_keypoints_and_classes_that_do_not_fit_are_refused() -> None:
    results = random_results(7)
    with pytest.raises(DataError, match="'000' appears twice"):
        evaluate([*results, results[0]], COCO_PERSON, CLASSES)
    with pytest.raises(DataError, match="have 17 keypoints, the skeleton has 2"):
        evaluate(results, Skeleton(names=("a", "b"), sigmas=(0.1, 0.1)), CLASSES)
    with pytest.raises(DataError, match=r"have class 1, expected 0\.\.0"):
        evaluate(results, COCO_PERSON, ["person"])
    with pytest.raises(DataError, match="no images"):
        evaluate([], COCO_PERSON, CLASSES)
