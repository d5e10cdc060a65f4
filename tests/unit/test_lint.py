"""Every rule of lint on labels that break it and on labels that do not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from raypose.cli.data import app
from raypose.data.build import build_shard_set
from raypose.data.importers import source_of
from raypose.data.lint import RULES, Finding, lint_set
from raypose.data.lint.hashing import correlation, hash_of, near_pairs, shrink, thumbnail
from raypose.data.lint.labels import label_findings
from raypose.data.lint.limbs import learn_proportions, odd_limbs
from raypose.data.lint.page import render_findings
from raypose.data.lint.sides import Sides, find_swaps, learn_sides, swap_scores
from raypose.data.lint.survey import _Reservoir
from raypose.data.lint.whole_set import class_findings, skeleton_findings
from raypose.data.manifest import is_labelled
from raypose.data.shard_set import ShardSet
from raypose.data.synth import synthesize
from raypose.errors import ConfigError, DataError
from raypose.structures import COCO_PERSON, FloatArray, People, Sample, Skeleton
from raypose.vision.decode import decode_rgb
from raypose.vision.draw import encode_jpeg

DATA = Path(__file__).parents[3] / "shared" / "data"
POINTS = Skeleton(("a", "b"), ((0, 1),))


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return list(synthesize(160, seed=4, size_px=128))


@pytest.fixture(scope="module")
def bodies(drawn: list[Sample]) -> FloatArray:
    """Drawn people whose every pair is labelled."""
    everyone = np.concatenate([item.people.keypoints_NK3[is_labelled(item.people)] for item in drawn])
    return everyone[(everyone[:, 5:, 2] > 0).all(axis=1)]


def write_set(samples: Iterable[Sample], out: Path, skeleton: Skeleton = COCO_PERSON) -> ShardSet:
    build_shard_set(source_of(samples, skeleton, ("person",)), str(out))
    return ShardSet.open(str(out))


def one_label(box: list[float], keypoints: list[list[float]], *, ignored: bool = False, crowd: bool = False) -> Sample:
    people = People(
        np.array([box], np.float32),
        np.array([keypoints], np.float32),
        np.zeros(1, np.int64),
        np.full(1, np.nan, np.float32),
        np.array([ignored]),
        np.array([crowd]),
    )
    return Sample("one", b"", 100, 80, people)


def rules_of(sample: Sample) -> list[str]:
    return [finding.rule for finding in label_findings(sample, POINTS, 7, typical_size_px=30)]


@pytest.mark.parametrize(
    ("sample", "rules"),
    [
        (one_label([10, 10, 60, 60], [[12, 12, 2], [59, 59, 1]]), []),
        (one_label([10, 10, 60, 60], [[2, 12, 2], [59, 68, 1]]), []),  # within a fifth of 50 px
        (one_label([10, 10, 60, 60], [[12, 12, 2], [59, 75, 1]]), ["keypoint-outside-box"]),
        (one_label([10, 10, 60, 60], [[12, 12, 2], [59, 75, 0]]), []),  # not labelled
        (one_label([60, 40, 99, 79], [[62, 42, 2], [101.5, 79, 2]]), []),
        (one_label([60, 40, 99, 79], [[62, 42, 2], [103, 79, 2]]), ["keypoint-outside-image"]),
        (one_label([0, 0, 7, 50], [[2, 2, 2], [3, 3, 2]]), ["tiny-box"]),
        (one_label([0, 0, 9, 50], [[2, 2, 2], [3, 3, 2]]), []),
        (one_label([10, 10, 60, 60], [[0, 0, 0], [0, 0, 0]], ignored=True), ["box-without-keypoints"]),
        (one_label([10, 10, 30, 30], [[0, 0, 0], [0, 0, 0]], ignored=True), []),  # too small to expect any
        (one_label([10, 10, 60, 60], [[0, 0, 0], [0, 0, 0]], ignored=True, crowd=True), []),
        (one_label([10, 10, 60, 60], [[500, 500, 2], [0, 0, 0]], ignored=True), []),  # nobody learns from it
    ],
)
def test_boxes_and_keypoints_are_judged_by_stated_thresholds(sample: Sample, rules: list[str]) -> None:
    assert rules_of(sample) == rules


def test_a_finding_names_person_keypoints_and_how_far_off_they_are() -> None:
    (finding,) = label_findings(one_label([10, 10, 60, 60], [[12, 12, 2], [59, 75, 1]]), POINTS, 7, 30)
    assert (finding.sample_id, finding.person, finding.keypoints, finding.place) == ("one", 0, (1,), 7)
    assert finding.message == "b 15 px outside the box, expected at most 10 px"


def test_what_a_skeleton_leaves_open_is_noted() -> None:
    assert list(skeleton_findings(COCO_PERSON, 30, 30)) == []
    bare = Skeleton(("left_hand", "right_hand"))
    messages = [finding.message for finding in skeleton_findings(bare, 3, 30)]
    assert ["sigmas" in messages[0], "left_hand and right_hand" in messages[1], "edges" in messages[2]] == [True] * 3
    assert messages[3].startswith("3 labelled people, expected 30")


def test_classes_that_training_hardly_sees_are_named() -> None:
    named = [finding.message for finding in class_findings(("a", "b", "c"), np.array([5000, 49, 51]))]
    assert named == ["class b: 49 labelled people, a has 5,000"]
    assert list(class_findings(("a",), np.array([0]))) == []


def moved(keypoints_NK3: FloatArray, angle: float, scale: float) -> FloatArray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    return np.concatenate([keypoints_NK3[..., :2] @ turn.T + 17, keypoints_NK3[..., 2:]], axis=2).astype(np.float32)


def exchanged(keypoints_NK3: FloatArray, pairs: Iterable[int]) -> FloatArray:
    order = list(range(COCO_PERSON.keypoints))
    for index in pairs:
        left, right = COCO_PERSON.flip_pairs[index]
        order[left], order[right] = right, left
    return keypoints_NK3[:, order]


def test_a_limb_that_is_pulled_long_or_to_nothing_is_found_and_others_are_not(bodies: FloatArray) -> None:
    learnt = learn_proportions(bodies, COCO_PERSON)
    assert len(list(odd_limbs(bodies, COCO_PERSON, learnt))) <= 0.01 * len(bodies)
    pulled_NK3 = bodies.copy()
    pulled_NK3[:, 9, :2] += 4 * (pulled_NK3[:, 9, :2] - pulled_NK3[:, 7, :2])  # the forearm, five times as long
    found = {limb.person: limb for limb in odd_limbs(pulled_NK3, COCO_PERSON, learnt)}
    assert len(found) > 0.9 * len(bodies)
    assert {COCO_PERSON.edges[limb.edge] for limb in found.values()} == {(7, 9)}
    pulled_NK3[:, 9, :2] = pulled_NK3[:, 7, :2]
    assert [limb.times for limb in odd_limbs(pulled_NK3[:5], COCO_PERSON, learnt)] == [0.0] * 5


def test_a_few_bad_labels_do_not_change_what_is_learnt(bodies: FloatArray) -> None:
    spoilt_NK3 = bodies.copy()
    spoilt_NK3[: len(bodies) // 20, 9, :2] = 5000
    clean, learnt = learn_proportions(bodies, COCO_PERSON), learn_proportions(spoilt_NK3, COCO_PERSON)
    np.testing.assert_allclose(learnt.log_length_E, clean.log_length_E, atol=0.1)
    assert len({limb.person for limb in odd_limbs(spoilt_NK3, COCO_PERSON, learnt)}) == len(bodies) // 20


@pytest.mark.parametrize("pairs", [(0,), (2,), (5,), (3, 4), (2, 5)])  # eyes, shoulders, hips, arms, trunk
def test_exchanged_pairs_are_found_and_named(bodies: FloatArray, pairs: tuple[int, ...]) -> None:
    learnt = learn_sides(bodies, COCO_PERSON)
    assert len(list(find_swaps(bodies, learnt))) <= 0.01 * len(bodies)
    found = list(find_swaps(exchanged(bodies, pairs), learnt))
    assert len(found) > 0.4 * len(bodies)
    assert sum(swap.pairs == pairs for swap in found) > 0.8 * len(found)


def test_what_many_people_do_is_told_once_and_not_of_each(bodies: FloatArray) -> None:
    crossed = bodies.copy()
    tenth = len(bodies) // 10
    crossed[:tenth] = exchanged(bodies[:tenth], [5])
    learnt = learn_sides(crossed, COCO_PERSON)
    assert learnt.share_P[5] > 0.05
    assert not [swap for swap in find_swaps(crossed, learnt) if 5 in swap.pairs]
    rare = bodies.copy()
    rare[:4] = exchanged(bodies[:4], [5])
    assert {swap.person for swap in find_swaps(rare, learn_sides(rare, COCO_PERSON)) if swap.pairs == (5,)} <= set(
        range(4)
    )


def test_a_whole_body_exchanged_shows_in_its_face_only() -> None:
    """Two pairs of hands point the same way as before; a nose lies on the other side of its eyes."""
    rng = np.random.default_rng(0)
    face_K3 = np.array([[0, 0, 2], [3, -4, 2], [-3, -4, 2], [8, 20, 2], [-8, 20, 2]], np.float32)
    people_NK3 = np.repeat(face_K3[None], 200, axis=0)
    people_NK3[..., :2] += rng.normal(0, 0.7, (200, 5, 2))
    skeleton = Skeleton(("nose", "left_eye", "right_eye", "left_hand", "right_hand"), (), ((1, 2), (3, 4)))
    mirrored_NK3 = people_NK3[:, list(skeleton.flip_index)]
    found = list(find_swaps(mirrored_NK3, learn_sides(people_NK3, skeleton)))
    assert len(found) > 190 and {swap.pairs for swap in found} == {(0, 1)}
    faceless = Skeleton(skeleton.names[1:], (), ((0, 1), (2, 3)))
    assert not list(find_swaps(mirrored_NK3[:, 1:], learn_sides(people_NK3[:, 1:], faceless)))


@settings(max_examples=20)
@given(st.floats(-3.1, 3.1), st.floats(0.1, 30))
def test_what_is_found_does_not_depend_on_how_large_or_upright_people_are(
    bodies: FloatArray, angle: float, scale: float
) -> None:
    learnt = learn_sides(bodies, COCO_PERSON)
    few_NK3 = exchanged(bodies[:10], [5])
    np.testing.assert_allclose(
        np.median(swap_scores(moved(few_NK3, angle, scale), learnt)), np.median(swap_scores(few_NK3, learnt)), atol=0.1
    )
    proportions = learn_proportions(bodies, COCO_PERSON)
    few_NK3 = few_NK3.copy()
    few_NK3[:, 9, :2] += 4 * (few_NK3[:, 9, :2] - few_NK3[:, 7, :2])
    turned = odd_limbs(moved(few_NK3, angle, scale), COCO_PERSON, proportions)
    assert {limb.person for limb in turned} == {limb.person for limb in odd_limbs(few_NK3, COCO_PERSON, proportions)}


def test_nothing_is_judged_by_what_a_handful_of_people_show(bodies: FloatArray) -> None:
    few_NK3 = bodies[:10]
    assert not list(find_swaps(exchanged(few_NK3, [5]), learn_sides(few_NK3, COCO_PERSON)))
    assert np.isinf(learn_proportions(few_NK3, COCO_PERSON).limit_E).all()


def test_skeletons_without_pairs_edges_or_people_are_no_trouble() -> None:
    nobody_NK3, bare = np.zeros((0, 2, 3), np.float32), Skeleton(("a", "b"))
    someone_NK3 = np.ones((40, 2, 3), np.float32)
    for people_NK3 in (nobody_NK3, someone_NK3):
        learnt: Sides = learn_sides(people_NK3, bare)
        assert not list(find_swaps(someone_NK3, learnt))
        assert not list(odd_limbs(someone_NK3, bare, learn_proportions(people_NK3, bare)))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.data())
def test_near_pairs_are_those_that_comparing_all_with_all_finds(seeds: list[int], data: st.DataObject) -> None:
    hashes = list(seeds)
    for seed in seeds:  # neighbours at 0 to 7 bits
        bits = data.draw(st.sets(st.integers(0, 63), max_size=7))
        hashes.append(seed ^ sum(1 << bit for bit in bits))
    hashes = list(dict.fromkeys(hashes))
    found = {tuple(pair) for pair in near_pairs(np.array(hashes, np.uint64)).tolist()}
    assert found == {
        (first, second)
        for first, second in combinations(range(len(hashes)), 2)
        if (hashes[first] ^ hashes[second]).bit_count() <= 5
    }


def test_images_saved_anew_hash_alike_and_different_ones_do_not(drawn: list[Sample]) -> None:
    for one, other in pairwise(drawn[:20]):
        image_HW3 = decode_rgb(one.image, one.id)
        small_HW3 = cv2.resize(image_HW3, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        saved_HW3 = decode_rgb(encode_jpeg(np.asarray(small_HW3, np.uint8), quality=60), "saved")
        original, saved, unlike = shrink(image_HW3), shrink(saved_HW3), shrink(decode_rgb(other.image, other.id))
        assert (hash_of(original) ^ hash_of(saved)).bit_count() <= 8
        assert correlation(original, saved) > 0.9 > correlation(original, unlike)


def test_a_reservoir_keeps_all_of_few_and_a_fair_share_of_many() -> None:
    kept = []
    for size in (5, 100):
        reservoir = _Reservoir(size)
        for value in range(100):
            reservoir.add(np.float32(value))  # type: ignore[arg-type]
        kept.append(len(reservoir.kept))
    assert kept == [5, 100]


@pytest.fixture(scope="module")
def spoilt(drawn: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSet, ShardSet]:
    """A set with one flaw of most kinds, and one that shares an image with it."""
    out = tmp_path_factory.mktemp("lint")
    samples, victim = list(drawn), next(i for i, s in enumerate(drawn) if is_labelled(s.people).any())
    keypoints_NK3 = samples[victim].people.keypoints_NK3.copy()
    keypoints_NK3[0, 0] = (900, 5, 2)
    samples[victim] = replace(samples[victim], people=replace(samples[victim].people, keypoints_NK3=keypoints_NK3))
    samples.append(replace(samples[3], id="copy of 3"))
    other = [replace(item, id=f"other-{item.id}") for item in synthesize(6, seed=99, size_px=128)]
    shared = decode_rgb(drawn[8].image, "8")
    other.append(replace(drawn[8], id="shared", image=encode_jpeg(shared, quality=70)))
    return write_set(samples, out / "set"), write_set(other, out / "other")


def test_a_set_with_flaws_is_told_them_with_sample_and_twin(spoilt: tuple[ShardSet, ShardSet]) -> None:
    heard: list[int] = []
    findings = list(lint_set(*spoilt, progress=heard.append))
    by_rule = {rule: [finding for finding in findings if finding.rule == rule] for rule in RULES}
    assert by_rule["keypoint-outside-image"] and by_rule["keypoint-outside-box"]
    (duplicate,) = by_rule["duplicate"]
    assert (duplicate.sample_id, duplicate.twin) == ("copy of 3", 3) and "equal hashes" in duplicate.message
    (leak,) = by_rule["leakage"]
    assert leak.place == 8 and leak.twin == 6 and "looks like shared" in leak.message
    assert heard[-1] == 2 * len(spoilt[0]) + len(spoilt[1])
    few = list(lint_set(spoilt[0], rules=["duplicate"]))
    assert few == [duplicate]


def plain(base: Sample, *greys: int) -> list[Sample]:
    """Images of one brightness each: their hashes are equal, whatever it is."""
    pictures = [np.full((base.height, base.width, 3), grey, np.uint8) for grey in greys]
    return [replace(base, id=f"{place}", image=encode_jpeg(picture)) for place, picture in enumerate(pictures)]


def twins(rule: str, shard_set: ShardSet, against: ShardSet | None = None) -> list[tuple[int, int | None]]:
    """Place and twin of each finding."""
    return [(finding.place, finding.twin) for finding in lint_set(shard_set, against, rules=[rule])]


def test_every_copy_of_an_image_of_the_other_set_is_a_leak(drawn: list[Sample], tmp_path: Path) -> None:
    copies = [replace(drawn[8], id=f"copy {number}") for number in range(3)]
    training = write_set([drawn[2], *copies], tmp_path / "train")
    assert twins("leakage", training, write_set(drawn[6:10], tmp_path / "val")) == [(1, 2), (2, 2), (3, 2)]
    assert twins("leakage", write_set(drawn[6:10], tmp_path / "val-again"), training) == [(2, 1)]


def test_images_of_one_hash_are_told_apart_by_what_they_show(drawn: list[Sample], tmp_path: Path) -> None:
    training = write_set(plain(drawn[8], 0, 255, 255, 128, 0), tmp_path / "train")
    assert twins("duplicate", training) == [(2, 1), (4, 0)]
    assert twins("leakage", training, write_set(plain(drawn[8], 60, 255), tmp_path / "val")) == [(1, 1), (2, 1)]


def test_the_images_of_one_hash_are_decoded_once_however_many_there_are(
    drawn: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counted(sample: Sample) -> np.ndarray:
        decoded.append(sample.id)
        return thumbnail(sample)

    monkeypatch.setattr("raypose.data.lint.looks.thumbnail", counted)
    shard_set = write_set(plain(drawn[8], *(0, 255) * 20), tmp_path / "train")
    assert twins("duplicate", shard_set) == [(place, place % 2) for place in range(2, 40)]
    assert len(decoded) == 40


def test_a_clean_set_has_next_to_nothing_to_tell(drawn: list[Sample], tmp_path: Path) -> None:
    findings = list(lint_set(write_set(drawn, tmp_path / "set")))
    # The drawn people cross their legs now and then, which is told of the set as a whole.
    assert len([finding for finding in findings if finding.sample_id]) <= 1
    assert [(finding.rule, finding.severity) for finding in findings if not finding.sample_id] == [
        ("left-right-swap", "note")
    ]


def test_sets_of_different_skeletons_are_not_compared(spoilt: tuple[ShardSet, ShardSet], tmp_path: Path) -> None:
    sample = replace(
        one_label([1, 1, 20, 20], [[2, 2, 2], [3, 3, 2]]), image=encode_jpeg(np.zeros((80, 100, 3), np.uint8))
    )
    other = write_set([sample], tmp_path / "set", POINTS)
    with pytest.raises(DataError, match="one skeleton"):
        list(lint_set(spoilt[0], other))


def test_the_page_shows_a_picture_of_each_finding(spoilt: tuple[ShardSet, ShardSet]) -> None:
    findings = list(lint_set(*spoilt))
    text = render_findings(findings, *spoilt, "a <set>")
    assert text.count('<img src="data:image/jpeg') == len([finding for finding in findings if finding.sample_id])
    assert "Duplicates" in text and "a &lt;set&gt;" in text and "<script" not in text
    assert "Nothing found" in render_findings([], spoilt[0], None, "clean")


def test_the_command_prints_lines_or_json_and_fails_if_told(spoilt: tuple[ShardSet, ShardSet], tmp_path: Path) -> None:
    run = CliRunner()
    arguments = ["lint", spoilt[0].url, "--against", spoilt[1].url]
    said = run.invoke(app, [*arguments, "--out", str(tmp_path / "lint")], catch_exceptions=False)
    assert said.exit_code == 0
    assert "error    leakage  " in said.stdout and "copy of 3: looks like" in said.stdout
    assert (tmp_path / "lint" / "index.html").exists()
    as_json = run.invoke(app, [*arguments, "--json"], catch_exceptions=False)
    raw = json.loads(as_json.stdout)
    assert raw == json.loads((tmp_path / "lint" / "findings.json").read_text())
    assert raw["images"] == 161 and raw["findings"][0].keys() == Finding.__dataclass_fields__.keys()
    with pytest.raises(DataError, match="--skip"):
        run.invoke(app, [*arguments, "--strict"], catch_exceptions=False)
    others = [item for rule in RULES if rule != "duplicate" for item in ("--skip", rule)]
    one = run.invoke(app, [*arguments, *others], catch_exceptions=False)
    assert "161 images, 1 finding: 1 duplicate" in one.stdout
    skipped = [item for rule in RULES for item in ("--skip", rule)]
    nothing = run.invoke(app, [*arguments, "--strict", *skipped], catch_exceptions=False)
    assert nothing.exit_code == 0 and "nothing found" in nothing.stdout
    with pytest.raises(ConfigError, match="no such rule"):
        run.invoke(app, [*arguments, "--skip", "colour"], catch_exceptions=False)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data lies in ../shared/data")
@pytest.mark.parametrize(("folder", "split", "most"), [("coco-mini", "train2017", 12), ("lspet", "val", 12)])
def test_real_data_has_few_findings(folder: str, split: str, most: int, tmp_path: Path) -> None:
    from raypose.data.importers.coco import read_coco

    name = f"person_keypoints_{split}.json" if folder == "coco-mini" else f"{split}.json"
    source = read_coco(DATA / folder / "annotations" / name, DATA / folder / split)
    build_shard_set(source, str(tmp_path / "set"))
    findings = list(lint_set(ShardSet.open(str(tmp_path / "set"))))
    assert len(findings) <= most
    assert not [finding for finding in findings if finding.rule in ("duplicate", "keypoint-outside-image")]
