from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose.errors import DataError
from raypose.vision.decode import decode_rgb, header_size, reduction_for

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "coco-mini" / "val2017"
RED_LEFT = np.zeros((24, 40, 3), np.uint8)
RED_LEFT[:, :20] = (0, 0, 255)  # BGR, as OpenCV encodes


def encode(extension: str) -> bytes:
    return cv2.imencode(extension, RED_LEFT)[1].tobytes()


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
def test_images_come_out_as_contiguous_rgb(extension: str) -> None:
    image = decode_rgb(encode(extension), "a picture")
    assert image.shape == (24, 40, 3)
    assert image.flags.c_contiguous
    assert np.abs(image[12, 5].astype(int) - [255, 0, 0]).max() < 8
    assert image[12, 35].max() < 8


def test_an_exif_orientation_turns_the_image_upright() -> None:
    image = decode_rgb(with_exif_orientation(encode(".jpg"), 6), "a portrait")  # 6: turn 90 degrees clockwise
    assert image.shape == (40, 24, 3)
    assert image[5, 12, 0] > 240
    assert image[35, 12, 0] < 16


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_a_reduced_image_has_that_fraction_of_the_size(extension: str, reduce: int) -> None:
    assert decode_rgb(encode(extension), "x", reduce=reduce).shape == (24 // reduce, 40 // reduce, 3)


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_a_reduced_image_keeps_its_colours_and_stands_upright(reduce: int) -> None:
    large = cv2.resize(RED_LEFT, (640, 384), interpolation=cv2.INTER_NEAREST)
    portrait = with_exif_orientation(cv2.imencode(".jpg", large)[1].tobytes(), 6)
    image = decode_rgb(portrait, "a portrait", reduce=reduce)
    assert image.shape == (640 // reduce, 384 // reduce, 3)
    assert (image[5, 12] > (240, -1, -1)).all()
    assert (image[5, 12, 1:] < 16).all()
    assert image[-5].max() < 16


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(32, 1280))
def test_the_reduction_is_the_largest_that_leaves_enough_pixels(width: int, height: int, long_side: int) -> None:
    reduce = reduction_for(width, height, long_side)
    assert reduce in {1, 2, 4, 8}
    assert reduce == 1 or max(width, height) // reduce >= long_side
    next_one = 2 * reduce
    assert next_one > 8 or max(width, height) < next_one * long_side or min(width, height) < next_one


@pytest.mark.parametrize(("long_side", "reduce"), [(192, 2), (96, 4), (64, 8)])
def test_a_photograph_decoded_at_a_fraction_of_its_size_is_the_same_picture(long_side: int, reduce: int) -> None:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"{PHOTOGRAPHS} is not there")
    differences, of_resizes = [], []
    for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[::4]:
        content = path.read_bytes()
        whole = decode_rgb(content, path.name)
        height, width = whole.shape[:2]
        if reduction_for(width, height, long_side) != reduce:
            continue
        size = (round(width * long_side / max(width, height)), round(height * long_side / max(width, height)))
        reduced = cv2.resize(decode_rgb(content, path.name, reduce=reduce), size)
        averaged = cv2.resize(whole, size, interpolation=cv2.INTER_AREA).astype(int)
        differences.append(np.abs(reduced - averaged).mean())
        of_resizes.append(np.abs(cv2.resize(whole, size, interpolation=cv2.INTER_LINEAR) - averaged).mean())
    assert differences
    assert np.mean(differences) < 6
    # Closer to the average over each pixel's area than plain bilinear interpolation of the whole image comes.
    assert np.mean(differences) < np.mean(of_resizes)


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([0x111111, 0x211111, 0x221111, 0x411111]),
    st.booleans(),
    st.booleans(),
)
def test_every_jpeg_has_the_pixels_that_opencv_decodes(
    reduce: int, width: int, height: int, sampling: int, progressive: bool, grey: bool
) -> None:
    noise = np.random.default_rng(width * 71 + height).integers(0, 256, (height, width, 1 if grey else 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    content = cv2.imencode(".jpg", noise, options)[1].tobytes()
    upright = with_exif_orientation(content, 1)  # Exif leaves it to OpenCV
    assert np.array_equal(decode_rgb(content, "x", reduce=reduce), decode_rgb(upright, "x", reduce=reduce))


@pytest.mark.parametrize("content", [b"", b"not an image at all", encode(".png")[:40], encode(".jpg")[:100]])
def test_bytes_that_are_no_image_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(DataError, match=r"shard-000001\.pkl sample 'a'.*do not decode"):
        decode_rgb(content, "shard-000001.pkl sample 'a'")


def test_a_header_that_promises_too_many_pixels_is_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(DataError, match=r"bomb\.png.*40000x40000 pixels"):
        decode_rgb(b"\x89PNG\r\n\x1a\n" + chunk, "bomb.png")


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_the_header_tells_the_size_without_decoding(extension: str) -> None:
    assert header_size(with_exif_orientation(encode(".jpg"), 6)) == (40, 24)
    assert header_size(encode(extension)) == (40, 24)
