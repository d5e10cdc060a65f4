"""Validators: how they are found, what they see, what they return, and what they can stop."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raypose.config import ValConfig, ValidatorConfig, load_config
from raypose.data.shard_set import ShardSet
from raypose.engine.loop import run
from raypose.engine.setup import prepare
from raypose.engine.world import World
from raypose.errors import ConfigError, DataError, ValidatorError
from raypose.evaluate import BY_COCO, Context, Figure, Findings, Judge
from raypose.evaluate.validators import NamedValidator, find_validators
from raypose.launch.preflight import metric_names
from raypose.storage import open_store
from raypose.structures import COCO_PERSON, ImageResult, People, Poses
from raypose.telemetry.logbook import Logbook
from tests.data_sets import build_synthetic, tiny_run

GUIDE = Path(__file__).parents[2] / "docs/validators.md"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_synthetic(tmp_path_factory.mktemp("sets"), train=16, val=6)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of its own, which leaves the import path as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    return tmp_path


def results_of(*ids: str, moved_px: float = 0.0) -> list[ImageResult]:
    """Images of one person in a box of 100 px, each keypoint predicted so many pixels to the right."""
    keypoints_NK3 = np.tile(np.array([[[50.0, 50.0, 2.0]]], np.float32), (1, COCO_PERSON.keypoints, 1))
    keypoints_NK3[0, :, 1] = np.arange(COCO_PERSON.keypoints)
    box_N4, zero, no = np.array([(0, 0, 100, 100)], np.float32), np.zeros(1, np.int64), np.array([False])
    people = People(box_N4, keypoints_NK3, zero, np.array([np.nan], np.float32), no, no)
    found_NK3 = keypoints_NK3 + np.array([moved_px, 0, -1], np.float32)
    poses = Poses(box_N4, np.array([0.9], np.float32), zero, found_NK3)
    return [ImageResult(identity, 100, 100, people, poses) for identity in ids]


def measured(validator: Any, *ids: str, earlier: Mapping[str, float] = {}, moved_px: float = 0.0) -> Any:
    judge = Judge(validators=(NamedValidator("own", validator),))
    return judge.measure(results_of(*(ids or ("a",)), moved_px=moved_px), COCO_PERSON, ["person"], earlier=earlier)


def find(**entry: Any) -> NamedValidator:
    return find_validators([ValidatorConfig(**entry)])[0]


# --- the guide ---


def test_the_guides_own_validator_drives_the_best_checkpoint(here: Path, sets: Path) -> None:
    code, settings = re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)[:2]
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    (here / "wrists.py").write_text(code)
    wanted = yaml.safe_load(settings)
    config = tiny_run(
        sets, here / "runs",
        f"val.validators={json.dumps(wanted['val']['validators'])}",
        f"checkpoint.best_metric={wanted['checkpoint']['best_metric']}",
    )  # fmt: skip
    assert "wrist_error.score" in metric_names(ShardSet.open(config.data.val), Judge.of(config.val))
    store = open_store(config.storage).child(config.name)
    with Logbook(store, start_step=0, tensorboard=False) as logbook:
        summary = run(prepare(config, World(), store, logbook), logbook)
    rows = [json.loads(line) for line in store.read("metrics.jsonl").splitlines()]
    scores = {row["epoch"]: row["val/wrist_error.score"] for row in rows if row["kind"] == "val"}
    assert summary is not None
    best = summary["best"]
    assert best["wrist_error.score"] == pytest.approx(max(scores.values()))
    assert scores[best["epoch"]] == max(scores.values())
    assert best["wrist_error.mean_px"] == pytest.approx(30 * (1 - best["wrist_error.score"]))


# --- what a validator sees and returns ---


def test_images_come_once_each_in_the_order_of_their_ids_with_what_was_labelled_and_predicted() -> None:
    seen = []

    def validator(results: Iterator[ImageResult], context: Context) -> dict[str, float]:
        seen.extend((result.id, len(result.people), len(result.poses)) for result in results)
        assert context.skeleton == COCO_PERSON
        assert context.class_names == ("person",)
        return {}

    measured(validator, "c", "a", "b")
    assert seen == [("a", 1, 1), ("b", 1, 1), ("c", 1, 1)]


def test_numbers_and_figures_stand_beside_the_built_in_ones() -> None:
    figure = Figure("a drawing", PNG)
    evaluation = measured(lambda results, context: Findings({"n": np.float32(3)}, (figure,)))
    assert evaluation.metrics["own.n"] == 3
    assert evaluation.figures == (figure,)
    plain = BY_COCO.measure(results_of("a"), COCO_PERSON, ["person"]).metrics
    assert {name: value for name, value in evaluation.metrics.items() if name in plain} == pytest.approx(
        plain, nan_ok=True
    )
    json.dumps(evaluation.to_dict(), allow_nan=False)


def test_a_validator_sees_its_own_numbers_of_the_best_checkpoint_and_no_others() -> None:
    seen: list[Mapping[str, float]] = []
    measured(
        lambda results, context: seen.append(context.earlier) or {},
        earlier={"own.pck": 0.5, "other.pck": 0.1, "pose_ap": 0.2},
    )
    assert seen == [{"pck": 0.5}]


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        (None, "validator own: AttributeError"),
        ({"n": "three"}, "returned 'n': 'three', expected names with a number each"),
        ({3: 1.0}, "returned 3: 1.0, expected names"),
        ({"n": 1j}, "expected names with a number each"),
        (Findings({}, (PNG,)), "figure is of type bytes"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_finding_is_refused(returned: object, complaint: str) -> None:
    with pytest.raises(ValidatorError, match=re.escape(complaint)):
        measured(lambda results, context: returned)


def test_an_exception_is_named_with_its_place() -> None:
    with pytest.raises(ValidatorError, match=r"validator own: ZeroDivisionError: .* \(test_validators\.py:\d+\)"):
        measured(lambda results, context: {"n": 1 / 0})


def test_a_figure_is_png_jpeg_or_svg() -> None:
    kinds = [
        Figure("t", start).kind for start in (PNG, b"\xff\xd8\xff\xe0", b"<svg/>", b' \n<?xml version="1.0"?><svg/>')
    ]
    assert kinds == ["png", "jpeg", "svg", "svg"]
    for image in (b"GIF89a", "text", b""):
        with pytest.raises(DataError, match="expected the bytes of a PNG, JPEG or SVG file"):
            Figure("t", image)  # type: ignore[arg-type]


# --- how it is found ---

OWN = """
def plain(results, context, limit=1.0):
    return {"limit": limit}

class Made:
    def __init__(self, limit):
        if limit < 0:
            raise ValueError("limit is negative")
        self.limit = limit
    def __call__(self, results, context):
        return {"limit": self.limit}

class Mute:
    pass

number = 3
"""


def test_functions_and_classes_of_the_current_folder_get_their_args(here: Path) -> None:
    (here / "own_module.py").write_text(OWN)
    for use in ("own_module:plain", "own_module:Made"):
        found = find(use=use, args={"limit": 7.0})
        assert found.name == use.partition(":")[2]
        assert found.run(results_of("a"), Context(COCO_PERSON, ("person",))).metrics == {f"{found.name}.limit": 7.0}
    assert find(use="own_module:plain", name="other").name == "other"


def test_an_installed_package_offers_one_by_entry_point(here: Path) -> None:
    metadata = here / "installed/offering-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[raypose.validators]\noffered = offering_module:plain\n")
    (here / "installed/offering_module.py").write_text(OWN)
    found = find(use="offered", args={"limit": 2.0})
    assert found.run(results_of("a"), Context(COCO_PERSON, ("person",))).metrics == {"offered.limit": 2.0}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"use": "no_such_module:x"}, "no_such_module:x cannot be imported: ModuleNotFoundError"),
        ({"use": "bad_module:absent"}, "bad_module:absent cannot be imported: AttributeError"),
        ({"use": "bad_module:number"}, "3 is not a callable object"),
        ({"use": "bad_module:Mute"}, "Mute object"),
        ({"use": "bad_module:plain", "args": {"limitt": 1}}, "unexpected keyword argument 'limitt'"),
        ({"use": "bad_module:Made"}, "missing a required argument: 'limit'"),
        ({"use": "bad_module:Made", "args": {"limit": -1}}, "limit is negative; mend its args"),
        ({"use": "pck_reprot"}, "no validator is called 'pck_reprot' (did you mean pck_report?)"),
        ({"use": "unheard-of"}, "known are keypoint_guard, pck_report"),
        ({"use": "pck_report", "args": {"normaliser": "arm"}}, "normaliser is 'arm', expected box, torso, head"),
        ({"use": "pck_report", "args": {"thresholds": [0]}}, "thresholds are [0], expected positive numbers"),
    ],
)
def test_what_cannot_be_had_is_a_line_that_says_which_and_why(here: Path, entry: Any, complaint: str) -> None:
    (here / "bad_module.py").write_text(OWN)
    with pytest.raises(ConfigError, match=re.escape(complaint)) as caught:
        find_validators([ValidatorConfig(use="pck_report", name="fine"), ValidatorConfig(**entry)])
    assert str(caught.value).startswith("val.validators[1]: ")
    assert len(caught.value.problems) == 1


def test_two_of_one_name_are_refused_and_all_problems_come_at_once() -> None:
    twice = [ValidatorConfig(use="pck_report"), ValidatorConfig(use="pck_report"), ValidatorConfig(use="nothing")]
    with pytest.raises(ConfigError) as caught:
        find_validators(twice)
    assert len(caught.value.problems) == 2
    assert "2 are named 'pck_report'; give each a 'name' of its own" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("[{name: x}]", "val.validators: entry 0 lacks 'use'"),
        ("[{use: x}, {use: y, arg: {}}]", "val.validators: entry 1 has the unknown key 'arg'"),
        ("x", "val.validators: must be a list"),
    ],
)
def test_a_list_of_validators_that_does_not_fit_is_named_by_entry(value: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, ["data.train=a", "data.val=b", f"val.validators={value}"])


# --- before Ray starts ---


def test_a_validator_that_fails_is_found_by_rehearsal(here: Path, sets: Path) -> None:
    (here / "failing.py").write_text("def check(results, context):\n    return {'n': next(results).nothing}\n")
    judge = Judge.of(ValConfig(validators=(ValidatorConfig(use="failing:check"),)))
    with pytest.raises(ConfigError, match=r"rehearsed with image '.+': validator check: AttributeError.*failing\.py:2"):
        metric_names(ShardSet.open(f"{sets}/val"), judge)


def test_sigmas_that_do_not_fit_are_refused_and_those_that_do_are_used(sets: Path) -> None:
    with pytest.raises(ConfigError, match=r"val\.sigmas: 2 sigmas for a skeleton of 17 keypoints"):
        metric_names(ShardSet.open(f"{sets}/val"), Judge(sigmas=(0.1, 0.1)))
    near = results_of("a", moved_px=12)
    strict, lenient = (Judge(sigmas=(sigma,) * 17).measure(near, COCO_PERSON, ["person"]) for sigma in (0.01, 0.5))
    assert (strict.metrics["pose_ap50"], lenient.metrics["pose_ap50"]) == (0, pytest.approx(1))


# --- the two that come with raypose ---


def test_pck_report_measures_by_the_length_it_is_told() -> None:
    # 12 px of a box side of 100: wrong at .1, right at .2. The span of keypoints 0 and 10 is 10 px: 12 is 1.2 of it.
    by_box = measured(find(use="pck_report", args={"thresholds": [0.1, 0.2]}).validator, moved_px=12)
    assert by_box.metrics["own.pck_0.1"] == 0
    assert by_box.metrics["own.pck_0.2"] == by_box.metrics["own.nose"] == 1
    assert by_box.metrics["own.auc"] == 0.5
    assert by_box.figures[0].kind == "png"
    span = find(use="pck_report", args={"normaliser": ["nose", "right_wrist"], "thresholds": [1.1, 1.3]}).validator
    by_span = measured(span, moved_px=12).metrics
    assert (by_span["own.pck_1.1"], by_span["own.pck_1.3"]) == (0, 1)
    with pytest.raises(ConfigError, match="the skeleton has no head; it has nose"):
        measured(find(use="pck_report", args={"normaliser": "head"}).validator)


def test_keypoint_guard_fails_the_run_when_its_keypoint_regresses() -> None:
    guard = find(use="keypoint_guard", args={"keypoint": "left_wrist", "max_drop": 0.1, "at_least": 0.5}).validator
    assert measured(guard, earlier={"own.pck": 1.0}).metrics["own.pck"] == 1
    with pytest.raises(ValidatorError, match=r"left_wrist has PCK 0\.000, and had 0\.900 at the best checkpoint"):
        measured(guard, earlier={"own.pck": 0.9}, moved_px=12)
    with pytest.raises(ValidatorError, match=r"left_wrist has PCK 0\.000, expected at least 0\.5"):
        measured(guard, earlier={"own.pck": 0.05}, moved_px=12)
    with pytest.raises(ConfigError, match="no keypoint 'tail'; the skeleton has nose"):
        measured(find(use="keypoint_guard", args={"keypoint": "tail"}).validator)


def test_keypoint_guard_refuses_to_guard_what_nobody_labelled() -> None:
    guard = find(use="keypoint_guard", args={"keypoint": "left_wrist", "at_least": 0.5}).validator
    (result,) = results_of("a")
    result.people.keypoints_NK3[:, COCO_PERSON.names.index("left_wrist")] = 0
    with pytest.raises(ValidatorError, match="left_wrist is labelled in nobody of the validation set"):
        Judge(validators=(NamedValidator("own", guard),)).measure([result], COCO_PERSON, ["person"])


def test_a_guard_stops_training_with_its_line_and_leaves_the_checkpoints(sets: Path, tmp_path: Path) -> None:
    settings = "[{use: keypoint_guard, args: {keypoint: nose, at_least: 1.1}}]"
    config = tiny_run(sets, tmp_path, f"val.validators={settings}", "checkpoint.every_steps=1")
    store = open_store(config.storage).child(config.name)
    with pytest.raises(ValidatorError, match=r"keypoint_guard: nose has PCK .*, expected at least 1\.1"):
        run(prepare(config, World(), store, lambda event: None), lambda event: None)
    assert any(store.list("checkpoints/step-00000001/"))
