"""Tensor operations draw what OpenCV draws.

Tolerances, on images without sharp edges: where axes are kept and nothing is shrunk, 2 of 255 levels, for OpenCV
interpolates in fixed point. Elsewhere the CPU path interpolates twice and blends at seams, so a pixel must lie within
what the CPU path has around it, give or take 10 levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from raypose.config.schema import AugmentConfig
from raypose.structures import ImageArray, People
from raypose.vision.augment import Design, design_training_image, draw_training_image
from raypose.vision.canvas import Labelled
from raypose.vision.device_augment import draw_batch
from raypose.vision.device_table import SourceSize, tabulate

# A failing example is found at once; making it smaller would take minutes.
quickly = settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
PLAIN = AugmentConfig(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


def smooth(seed: int, width: int, height: int) -> Labelled:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return Labelled(image, People.empty(2), width, height)


def design(items: Sequence[Labelled], options: AugmentConfig, seed: int, imgsz: int) -> Design:
    return design_training_image(items[0], items[1:], options, imgsz=imgsz, rng=np.random.default_rng(seed))


def by_tensors(designs: Sequence[Design], imgsz: int) -> ImageArray:
    images = [tile.source.image for design in designs for tile in design.canvas.tiles]
    sources = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    table = tabulate(designs, [SourceSize(image.shape[1], image.shape[0]) for image in images], imgsz)
    return draw_batch(sources, table, imgsz).permute(0, 2, 3, 1).numpy()


def by_opencv(items: Sequence[Labelled], options: AugmentConfig, seed: int, imgsz: int) -> ImageArray:
    rng = np.random.default_rng(seed)
    return draw_training_image(items[0], items[1:], options, imgsz=imgsz, rng=rng)[0]


def assert_within_a_pixel(found: ImageArray, expected: ImageArray, levels: int) -> None:
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(expected, around).astype(int), cv2.dilate(expected, around).astype(int)
    outside = np.maximum(low - found, found - high)
    assert outside.max() <= levels


sides = st.integers(64, 420)
sources = st.lists(st.tuples(sides, sides), min_size=4, max_size=4)
image_sizes = st.sampled_from([64, 96, 160, 256])


@given(
    sizes=sources,
    imgsz=image_sizes,
    seed=st.integers(0, 2**32),
    mosaic=st.booleans(),
    scale=st.floats(0, 0.9),
    translate=st.floats(0, 0.6),
)
@quickly
def test_upright_images_have_the_pixels_that_opencv_resizes_them_to(
    sizes: list[tuple[int, int]], imgsz: int, seed: int, mosaic: bool, scale: float, translate: float
) -> None:
    options = PLAIN.model_copy(update={"scale": scale, "translate": translate, "fliplr": 0.5, "flipud": 0.5})
    items = [smooth(seed + number, *size) for number, size in enumerate(sizes[: 4 if mosaic else 1])]
    made = design(items, options, seed, imgsz)
    found, expected = by_tensors([made], imgsz)[0], by_opencv(items, options, seed, imgsz)
    # Halving an odd number of pixels, OpenCV spreads them; the tensor path keeps to pairs.
    is_shrunk = tabulate([made], [SourceSize(*size) for size in sizes[: len(items)]], imgsz).shrink_S.max() > 1
    if is_shrunk:
        assert_within_a_pixel(found, expected, levels=10)
    else:
        assert np.abs(found.astype(int) - expected).max() <= 2
