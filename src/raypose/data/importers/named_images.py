"""Images that an annotation file refers to by name: their keys, their sizes, the ids that samples get."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from raypose.data.importers.source import SourceImage, find_listed
from raypose.errors import DataError
from raypose.storage import ObjectStore, StoredObject


def id_of(key: str) -> str:
    """An image's key without its suffix."""
    return PurePosixPath(key).with_suffix("").as_posix()


def find_images(store: ObjectStore, labels: Sequence[tuple[Sequence[str], Any]], where: str) -> list[SourceImage]:
    """Images with their labels, each found under the first of its keys that exists; DataError if there are none at all.

    One that is missing stays in the list: reading it says so, together with others that are not well.
    """
    found = find_listed(store, {key for keys, _ in labels for key in keys})
    if labels and not found:
        raise DataError(
            f"{store.url}: none of the {len(labels):,} images of {where} is there, such as {labels[0][0][0]}; give"
            " their folder with --images"
        )
    images = []
    for keys, label in labels:
        entry = next((found[key] for key in keys if key in found), StoredObject(keys[0], 0))
        images.append(SourceImage(entry.key, entry.size_bytes, label, entry.version))
    return images
