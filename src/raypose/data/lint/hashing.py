"""Images that look alike, by 64-bit perceptual hashes that survive another size, another quality and small edits.

The hash is the signs, against their median, of the 64 lowest frequencies of a 32 x 32 grey picture. Hashes that
differ in at most 5 bits are equal in at least one of six bands of 10 or 11 bits, so only equal bands are compared:
some 2,000 others for each of a million images, instead of a million.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from raypose.structures import ImageArray, Sample
from raypose.vision.decode import decode_rgb, reduction_for

MAX_DISTANCE = 5
"""Photographs saved anew at half the size or quality differ in up to 6 bits, unrelated ones in 8 and more."""

MIN_CORRELATION = 0.9
"""Of two small grey pictures, which hashes alone do not tell apart where an image is mostly plain."""

Hashes = NDArray[np.uint64]

_SIDE = 32
_DECODE_SIDE = 64
_LOW = 8
_BAND_EDGES = (0, 11, 22, 33, 44, 54, 64)


def thumbnail(sample: Sample) -> NDArray[np.float32]:
    """A 32 x 32 grey picture of the sample's image; DataError where it does not decode."""
    reduce = reduction_for(sample.width, sample.height, _DECODE_SIDE)
    return shrink(decode_rgb(sample.image, sample.id, reduce=reduce))


def shrink(image_HW3: ImageArray) -> NDArray[np.float32]:
    """The same for pixels that are at hand."""
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey_HW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.float32)


def hash_of(thumbnail_SS: NDArray[np.float32]) -> int:
    """The perceptual hash of a small picture."""
    frequencies = cv2.dct(thumbnail_SS)
    low = frequencies[:_LOW, :_LOW].ravel()
    low[0] = frequencies[0, _LOW]  # the first is the mean brightness, which says nothing
    bits = np.packbits(low > np.median(low), bitorder="little")
    return int.from_bytes(bits.tobytes(), "little")


def correlation(first_SS: NDArray[np.float32], second_SS: NDArray[np.float32]) -> float:
    """How alike two small pictures are, 1 for equal ones whatever their brightness and contrast."""
    if first_SS.std() < 1 or second_SS.std() < 1:
        return float(abs(first_SS - second_SS).max() < 1)
    return float(np.corrcoef(first_SS.ravel(), second_SS.ravel())[0, 1])


def near_pairs(hash_U: Hashes, max_distance: int = MAX_DISTANCE) -> NDArray[np.int64]:
    """Pairs (earlier, later) of places whose hashes differ in at most `max_distance` (0 to 5) bits, as M2, in order.

    No hash may come twice: a thousand black images would be half a million pairs.
    """
    found = [np.zeros((0, 2), np.int64), *_near(hash_U, max_distance)]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _near(hash_U: Hashes, max_distance: int) -> Iterator[NDArray[np.int64]]:
    for low, high in pairwise(_BAND_EDGES):
        key_U = (hash_U >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order_U = np.argsort(key_U, kind="stable")
        key_U, sorted_U = key_U[order_U], hash_U[order_U]
        # Compare each with the next, the next but one … for as long as any have the same band.
        at = np.arange(len(hash_U))
        for step in range(1, len(hash_U)):
            at = at[at + step < len(hash_U)]
            at = at[key_U[at] == key_U[at + step]]
            if not len(at):
                break
            is_near = np.bitwise_count(sorted_U[at] ^ sorted_U[at + step]) <= max_distance
            yield np.stack([order_U[at[is_near]], order_U[at[is_near] + step]], axis=1)
