"""What a result is kept with: when, on which machine and with which versions it was measured."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("raypose", "torch", "ultralytics", "ray", "opencv-python")


def record(name: str, result: Mapping[str, Any], folder: Path = RESULTS, packages: Sequence[str] = PACKAGES) -> Path:
    """Write `name`-DATE.json and return where."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = {package: version(package) for package in packages} | {"python": platform.python_version()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{date}.json"
    path.write_text(json.dumps({"date": date, "versions": versions, **result}, indent=1) + "\n")
    print(f"recorded in {path}")
    return path
