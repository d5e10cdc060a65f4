"""The images of a set by their looks: those of one hash, parted where their small pictures differ."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from raypose.data.lint.hashing import MIN_CORRELATION, Hashes, correlation, near_pairs, thumbnail
from raypose.data.shard_set import ShardSet
from raypose.structures import Sample

MAX_LOOKS = 64
"""Of one hash, told apart. Comparing an image with so many takes about as long as decoding it."""

_KEPT = 4096
"""Hashes, and small pictures of 4 KiB, that are remembered: near hashes come several times."""

Look = tuple[int, ...]
"""The places of images with one hash that look alike, in order. The first stands for all of them."""


class Looks:
    """Decodes, small, those images of a set whose hashes alone do not tell."""

    def __init__(self, shard_set: ShardSet, hash_N: Hashes) -> None:
        self.shard_set = shard_set
        self.hash_N = hash_N
        self._place_N = np.argsort(hash_N, kind="stable")
        self._sorted_N = hash_N[self._place_N]
        self.of = lru_cache(_KEPT)(self._part)
        """The looks that have this hash, in order of their first images; of more than MAX_LOOKS, the first ones."""
        self._thumbnail = lru_cache(_KEPT)(self._decode)

    def sample(self, place: int) -> Sample:
        return self.shard_set.sample(*self.shard_set.locate(place))

    def repeated(self) -> Hashes:
        """The hashes that more than one image has."""
        hash_U, count_U = np.unique(self._sorted_N, return_counts=True)
        return hash_U[count_U > 1]

    def near(self) -> Hashes:
        """Pairs of different hashes that look-alikes may have, as M2, those of early images first."""
        hash_U, first_U = np.unique(self.hash_N, return_index=True)
        hash_U = hash_U[np.argsort(first_U)]
        return hash_U[near_pairs(hash_U)]

    def near_in(self, other: Looks) -> Hashes:
        """Pairs of a hash here and one in another set that look-alikes may have, as M2, equal ones first."""
        hash_U = np.unique(np.concatenate([self.hash_N, other.hash_N]))
        near_M2 = near_pairs(hash_U)
        equal_U2 = np.repeat(np.arange(len(hash_U))[:, None], 2, axis=1)
        pair_M2 = np.concatenate([equal_U2, near_M2, near_M2[:, ::-1]])
        is_here_U, is_there_U = np.isin(hash_U, self.hash_N), np.isin(hash_U, other.hash_N)
        is_both_M = is_here_U[pair_M2[:, 0]] & is_there_U[pair_M2[:, 1]]
        return np.asarray(hash_U[pair_M2[is_both_M]])

    def are_alike(self, place: int, other: Looks, place_there: int) -> bool:
        """Whether the small pictures of an image here and one in another set, or in this, hardly differ."""
        return correlation(self._thumbnail(place), other._thumbnail(place_there)) >= MIN_CORRELATION

    def _part(self, image_hash: int) -> tuple[Look, ...]:
        wanted = np.uint64(image_hash)
        begin, stop = np.searchsorted(self._sorted_N, wanted), np.searchsorted(self._sorted_N, wanted, "right")
        places = self._place_N[begin:stop].tolist()
        if len(places) == 1:  # as nearly all have; whether it has to be decoded depends on the others
            return (tuple(places),)
        looks: list[tuple[list[int], NDArray[np.float32]]] = []
        for place in places:
            picture = self._decode(place)  # and not remembered: a million images may have one hash
            known = next((look for look, first in looks if correlation(first, picture) >= MIN_CORRELATION), None)
            if known is not None:
                known.append(place)
            elif len(looks) < MAX_LOOKS:
                looks.append(([place], picture))
        return tuple(tuple(look) for look, _ in looks)

    def _decode(self, place: int) -> NDArray[np.float32]:
        return thumbnail(self.sample(place))
