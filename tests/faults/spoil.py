"""Ways to spoil a sound workplace: each gives a function of its folder."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

IMAGE, LABEL = "people/images/synth-000000.jpg", "people/labels/synth-000000.pkl"

Spoil = Callable[[Path], object]


class Hostile:
    """What runs a command if a pickle with it is loaded as Python would."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch it-ran",)


def nothing(root: Path) -> None:
    """Leave everything sound: the command alone is bad."""


def write(name: str, content: str | bytes) -> Spoil:
    return lambda root: (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def _the(root: Path, name: str) -> Path:
    """The one file of this name, which may be a pattern."""
    (path,) = root.glob(name)
    return path


def remove(name: str) -> Spoil:
    return lambda root: _the(root, name).unlink()


def cut(name: str, keep: float) -> Spoil:
    def spoil(root: Path) -> None:
        path = _the(root, name)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return spoil


def flip_byte(name: str, at: int) -> Spoil:
    def spoil(root: Path) -> None:
        path = _the(root, name)
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return spoil


def copy(name: str, to: str) -> Spoil:
    return lambda root: shutil.copy(root / name, root / to)


def edit_json(name: str, change: Callable[[Any], object]) -> Spoil:
    def spoil(root: Path) -> None:
        raw = json.loads((root / name).read_text())
        change(raw)
        (root / name).write_text(json.dumps(raw))

    return spoil


def edit_yaml(name: str, change: Callable[[Any], object]) -> Spoil:
    def spoil(root: Path) -> None:
        raw = yaml.safe_load((root / name).read_text())
        change(raw)
        (root / name).write_text(yaml.safe_dump(raw))

    return spoil


def relabel(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change every person of the first image."""

    def spoil(root: Path) -> None:
        people = pickle.loads((root / LABEL).read_bytes())
        for person in people:
            change(person)
        (root / LABEL).write_bytes(pickle.dumps(people))

    return spoil


def nobody_labelled(root: Path) -> None:
    for label in (root / "people/labels").iterdir():
        label.write_bytes(pickle.dumps([]))


def skeleton(**change: Any) -> Spoil:
    return edit_yaml("people/dataset.yaml", lambda raw: raw["skeleton"].update(change))


def hostile_weights(root: Path) -> None:
    torch.save({"model": Hostile()}, root / "hostile.pt")


def put(key: str, value: object) -> Callable[[Any], object]:
    return lambda raw: raw.__setitem__(key, value)
