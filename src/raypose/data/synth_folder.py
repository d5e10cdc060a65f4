"""A folder of drawn people, written by several processes at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raypose.data.build.runners import InProcess, Runner
from raypose.data.importers.folder import check_is_empty, write_labelled_image, write_settings
from raypose.data.synth import synthesize
from raypose.structures import COCO_PERSON

_IMAGES_A_TASK = 32


@dataclass(frozen=True, slots=True)
class _Artist:
    """Draws and writes the images of a range of numbers."""

    seed: int
    size_px: int
    out: Path

    def __call__(self, numbers: range) -> int:
        for sample in synthesize(len(numbers), self.seed, self.size_px, start=numbers.start):
            write_labelled_image(sample, self.out)
        return len(numbers)


def synthesize_folder(
    count: int,
    seed: int,
    size_px: int,
    out: Path,
    *,
    runner: Runner | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write `count` images of `synthesize` in the layout that `read_folder` reads; equal files whatever `runner` is.

    `out` must be empty. `dataset.yaml` comes last.
    """
    check_is_empty(out)
    tasks = [range(start, min(start + _IMAGES_A_TASK, count)) for start in range(0, count, _IMAGES_A_TASK)]
    done = 0
    with contextlib.closing((runner or InProcess()).run(_Artist(seed, size_px, out), tasks)) as results:
        for _, images in results:
            done += images
            if progress:
                progress(done)
    write_settings(COCO_PERSON, ("person",), out)
