from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from raypose.config.schema import AugmentConfig
from raypose.structures import COCO_PERSON, People
from raypose.vision.augment import draw_training_image, scale_colours
from raypose.vision.canvas import Labelled
from raypose.vision.targets import targets_of

PLAIN = AugmentConfig(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
GREY = 114


class TrainingImage(NamedTuple):
    """A drawn image with the targets of its people."""

    image: np.ndarray
    class_N: np.ndarray
    box_cxcywh_N4: np.ndarray
    keypoints_NK3: np.ndarray


def build_training_image(
    primary: Labelled,
    partners: Sequence[Labelled],
    options: AugmentConfig,
    *,
    imgsz: int,
    flip_index: Sequence[int],
    rng: np.random.Generator,
) -> TrainingImage:
    image, layout = draw_training_image(primary, partners, options, imgsz=imgsz, rng=rng)
    targets = targets_of([layout], imgsz, flip_index)
    return TrainingImage(image, targets.class_N, targets.box_cxcywh_N4, targets.keypoints_NK3)


def people(box_N4: np.ndarray, keypoints_NK3: np.ndarray, ignore: bool = False) -> People:
    count = len(box_N4)
    flags = np.full(count, ignore)
    return People(
        box_N4.astype(np.float32),
        keypoints_NK3.astype(np.float32),
        np.arange(count),
        np.full(count, np.nan, np.float32),
        flags,
        flags,
    )


def crosses(seed: int, width: int = 320, height: int = 240) -> Labelled:
    """Two people, each of two keypoints that sit in the middle of a white and of a red disc on black."""
    image = np.zeros((height, width, 3), np.uint8)
    rng = np.random.default_rng(seed)
    centre_N2 = np.array([[0.25, 0.3], [0.7, 0.65]]) * [width, height] + rng.integers(-20, 20, (2, 2))
    keypoints_NK3 = np.full((2, 2, 3), 2.0)
    for person, (x, y) in enumerate(centre_N2.round().astype(int).tolist()):
        for keypoint, colour in enumerate([(255, 255, 255), (255, 0, 0)]):
            place = (x + 30 * keypoint, y)
            cv2.circle(image, place, 9, colour, -1, cv2.LINE_AA)
            keypoints_NK3[person, keypoint, :2] = np.add(place, 0.5)
    box_N4 = np.concatenate([keypoints_NK3[:, 0, :2] - 12, keypoints_NK3[:, 1, :2] + 12], axis=1)
    return Labelled(image, people(box_N4, keypoints_NK3), width, height)


def build(options: AugmentConfig, seed: int, *, mosaic: bool, imgsz: int = 320) -> TrainingImage:
    partners = [crosses(seed + number) for number in range(3)] if mosaic else []
    rng = np.random.default_rng(seed)
    return build_training_image(crosses(seed + 9), partners, options, imgsz=imgsz, flip_index=(0, 1), rng=rng)


def pixel_errors(result: TrainingImage, imgsz: int) -> list[float]:
    """Distance of each visible keypoint, well inside the image, from the centroid of the disc around it."""
    errors = []
    for keypoint, channel in ((0, 2), (1, 0)):
        for x, y, visible in result.keypoints_NK3[:, keypoint] * [imgsz, imgsz, 1]:
            left, top = int(x) - 12, int(y) - 12
            if visible == 0 or min(left, top) < 0 or max(left, top) + 25 > imgsz:
                continue
            patch = result.image[top : top + 25, left : left + 25].astype(float)
            disc = patch[..., channel] - (patch[..., 2] if keypoint == 1 else 0)
            if disc[0].max() > 0 or disc[-1].max() > 0 or disc[:, [0, -1]].max() > 0:
                continue  # cut by the next image, or touching the grey border
            ys, xs = np.mgrid[top : top + 25, left : left + 25] + 0.5
            errors.append(float(np.hypot((xs * disc).sum() / disc.sum() - x, (ys * disc).sum() / disc.sum() - y)))
    return errors


@pytest.mark.parametrize("mosaic", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 0.5, "translate": 0.1},
        {"scale": 0.3, "translate": 0.1, "fliplr": 1.0, "flipud": 1.0},
        {"degrees": 30.0, "shear": 5.0, "scale": 0.3},
        {"perspective": 0.0003, "degrees": 10.0},
    ],
)
def test_keypoints_stay_on_the_pixels_they_label(changes: dict[str, float], mosaic: bool) -> None:
    options = PLAIN.model_copy(update=changes)
    errors = [error for seed in range(25) for error in pixel_errors(build(options, seed, mosaic=mosaic), 320)]
    assert len(errors) > 20
    # A disc that another image cuts has its centroid elsewhere; few are.
    assert np.quantile(errors, 0.9) < 0.2


def test_without_randomness_the_image_is_scaled_and_centred() -> None:
    result = build(PLAIN, 0, mosaic=False, imgsz=160)
    assert result.image.shape == (160, 160, 3)
    assert (result.image[:20] == GREY).all()
    assert (result.image[140:] == GREY).all()
    assert not (result.image[20:140] == GREY).all(axis=-1).any()
    source = crosses(9).people
    expected = (source.keypoints_NK3[..., :2] / 2 + [0, 20]) / 160
    assert np.allclose(result.keypoints_NK3[..., :2], expected, atol=1e-6)
    assert result.class_N.tolist() == [0, 1]


def test_a_mirrored_image_swaps_left_and_right_keypoints() -> None:
    keypoints_NK3 = np.zeros((1, 17, 3))
    keypoints_NK3[0, :, 0] = np.arange(17) * 4 + 10
    keypoints_NK3[0, :, 1:] = (80, 2)
    source = Labelled(np.zeros((160, 160, 3), np.uint8), people(np.array([[8, 60, 90, 100]]), keypoints_NK3), 160, 160)
    mirrored = build_training_image(
        source,
        (),
        PLAIN.model_copy(update={"fliplr": 1.0}),
        imgsz=160,
        flip_index=COCO_PERSON.flip_index,
        rng=np.random.default_rng(0),
    )
    expected = 160 - keypoints_NK3[0, list(COCO_PERSON.flip_index), 0]
    assert np.allclose(mirrored.keypoints_NK3[0, :, 0] * 160, expected, atol=1e-4)
    assert np.allclose(mirrored.box_cxcywh_N4[0] * 160, [160 - 49, 80, 82, 40], atol=1e-4)


def test_ignored_people_are_no_targets() -> None:
    source = crosses(0)
    crowd = people(source.people.box_xyxy_N4, source.people.keypoints_NK3, ignore=True)
    hidden = Labelled(source.image, crowd, source.width, source.height)
    result = build_training_image(
        hidden, (), AugmentConfig(), imgsz=160, flip_index=(0, 1), rng=np.random.default_rng(0)
    )
    assert len(result.class_N) == len(result.box_cxcywh_N4) == len(result.keypoints_NK3) == 0


def test_targets_stay_inside_the_image_and_hidden_keypoints_hide() -> None:
    options = AugmentConfig(scale=0.9, translate=0.5, degrees=20)
    cut = 0
    for seed in range(60):
        result = build(options, seed, mosaic=True, imgsz=160)
        low_N2 = result.box_cxcywh_N4[:, :2] - result.box_cxcywh_N4[:, 2:] / 2
        high_N2 = result.box_cxcywh_N4[:, :2] + result.box_cxcywh_N4[:, 2:] / 2
        assert (low_N2 > -1e-5).all()
        assert (high_N2 < 1 + 1e-5).all()
        assert ((result.keypoints_NK3[..., :2] >= 0) & (result.keypoints_NK3[..., :2] <= 1)).all()
        on_border = ((result.keypoints_NK3[..., :2] == 0) | (result.keypoints_NK3[..., :2] == 1)).any(axis=-1)
        assert (result.keypoints_NK3[on_border, 2] == 0).all()
        cut += int(on_border.sum())
    assert cut > 0


def test_an_image_decoded_at_half_its_size_gives_the_same_targets() -> None:
    full = crosses(3, 640, 480)
    half = Labelled(cv2.resize(full.image, (320, 240)), full.people, full.width, full.height)
    results = [
        build_training_image(
            item, [item] * 3, AugmentConfig(), imgsz=160, flip_index=(0, 1), rng=np.random.default_rng(5)
        )
        for item in (full, half)
    ]
    # Whole pixels of a smaller image fall elsewhere, which moves a snapped tile by up to half a pixel.
    assert np.allclose(results[0].keypoints_NK3, results[1].keypoints_NK3, atol=0.75 / 160)
    assert np.abs(results[0].image.astype(int) - results[1].image).mean() < 6


def test_zero_gains_leave_colours_alone_and_gains_change_them() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    untouched = image.copy()
    scale_colours(untouched, PLAIN, np.random.default_rng(0))
    assert np.array_equal(untouched, image)
    scale_colours(untouched, AugmentConfig(), np.random.default_rng(0))
    assert not np.array_equal(untouched, image)


def test_grey_stays_grey_under_any_hue_and_saturation() -> None:
    image = np.full((4, 4, 3), 90, np.uint8)
    scale_colours(image, AugmentConfig(hsv_h=0.5, hsv_s=1, hsv_v=0), np.random.default_rng(1))
    assert np.abs(image.astype(int) - 90).max() <= 1


def test_targets_of_a_batch_are_those_of_its_images_one_after_another() -> None:
    flip_index, imgsz = (1, 0), 160
    layouts = []
    for seed in range(12):
        options = AugmentConfig(flipud=0.5, degrees=20.0 * (seed % 3 == 0))
        partners = [crosses(seed + number) for number in range(3)] if seed % 2 else []
        rng = np.random.default_rng(seed)
        layouts.append(draw_training_image(crosses(seed + 9), partners, options, imgsz=imgsz, rng=rng)[1])
    together = targets_of(layouts, imgsz, flip_index)
    apart = [targets_of([layout], imgsz, flip_index) for layout in layouts]
    for name in ("class_N", "box_cxcywh_N4", "keypoints_NK3"):
        assert np.array_equal(getattr(together, name), np.concatenate([getattr(part, name) for part in apart])), name
    assert together.image_index_N.tolist() == [
        number for number, part in enumerate(apart) for _ in range(len(part.class_N))
    ]


def test_a_batch_with_nobody_in_it_has_empty_targets() -> None:
    nobody = Labelled(np.zeros((40, 60, 3), np.uint8), People.empty(17), 60, 40)
    layouts = [
        draw_training_image(nobody, (), AugmentConfig(degrees=degrees), imgsz=64, rng=np.random.default_rng(0))[1]
        for degrees in (0.0, 10.0)
    ]
    targets = targets_of(layouts, 64, COCO_PERSON.flip_index)
    assert targets.keypoints_NK3.shape == (0, 17, 3)
    assert targets.box_cxcywh_N4.shape == (0, 4)


class _UltralyticsImages:
    """The four methods and fields of a data set that Ultralytics' transforms read."""

    use_keypoints = True
    cache = False

    def __init__(self, items: list[Labelled], imgsz: int) -> None:
        self.data = {"flip_idx": [0, 1], "kpt_shape": (2, 3)}
        self.items, self.imgsz, self.buffer = items, imgsz, list(range(len(items)))

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        from ultralytics.utils.instance import Instances

        item = self.items[index]
        scale = self.imgsz / max(item.width, item.height)
        image = cv2.resize(item.image, (round(item.width * scale), round(item.height * scale)))
        box_N4 = item.people.box_xyxy_N4 / np.array([item.width, item.height] * 2, np.float32)
        keypoints_NK3 = item.people.keypoints_NK3 / np.array([item.width, item.height, 1], np.float32)
        segments = np.zeros((0, 1000, 2), np.float32)
        return {
            "img": image,
            "cls": item.people.class_N[:, None].astype(np.float32),
            "instances": Instances(box_N4, segments, keypoints_NK3, bbox_format="xyxy", normalized=True),
            "ori_shape": (item.height, item.width),
            "resized_shape": image.shape[:2],
            "im_file": "",
        }


def summary(image: np.ndarray, box_cxcywh_N4: np.ndarray, keypoints_NK3: np.ndarray) -> np.ndarray:
    """People, their summed area, visible keypoints, and how bright and how grey the image is."""
    grey = (image == GREY).all(axis=-1).mean()
    area = box_cxcywh_N4[:, 2:].prod(axis=1).sum()
    return np.array([len(box_cxcywh_N4), area, (keypoints_NK3[..., 2] > 0).sum(), image.mean(), grey])


@pytest.mark.parametrize("mosaic", [1.0, 0.0])
@pytest.mark.parametrize("degrees", [0.0, 15.0])
def test_images_and_targets_are_distributed_as_ultralytics_distributes_them(mosaic: float, degrees: float) -> None:
    augment = pytest.importorskip("ultralytics.data.augment")
    from ultralytics.utils import DEFAULT_CFG, IterableSimpleNamespace

    imgsz, count = 160, 250
    items = [crosses(seed) for seed in range(8)]
    settings = {**vars(DEFAULT_CFG), "mosaic": mosaic, "degrees": degrees, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
    dataset = _UltralyticsImages(items, imgsz)
    transform = augment.v8_transforms(dataset, imgsz, IterableSimpleNamespace(**settings))
    options = AugmentConfig(mosaic=mosaic, degrees=degrees, hsv_h=0, hsv_s=0, hsv_v=0)
    random.seed(0)
    rng = np.random.default_rng(0)
    theirs, ours = [], []
    for number in range(count):
        made = transform(dataset.get_image_and_label(number % 8))
        made["instances"].convert_bbox("xywh")
        theirs.append(summary(made["img"], made["instances"].bboxes / imgsz, made["instances"].keypoints))
        partners = [items[index] for index in rng.integers(8, size=3)] if mosaic else []
        result = build_training_image(items[number % 8], partners, options, imgsz=imgsz, flip_index=(0, 1), rng=rng)
        ours.append(summary(result.image, result.box_cxcywh_N4, result.keypoints_NK3))
    difference = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    noise = np.sqrt((np.var(ours, axis=0) + np.var(theirs, axis=0)) / count)
    assert (np.abs(difference) < 4 * noise + 1e-6).all(), difference / noise
