"""What a result is kept with: when, on which machine and with which versions it was measured."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("raypose", "torch", "ultralytics", "ray", "opencv-python")


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code; taken before a benchmark loads the machine."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


def record(name: str, result: Mapping[str, Any], folder: Path = RESULTS, packages: Sequence[str] = PACKAGES) -> Path:
    """Write `name`-DATE.json and return where."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = {package: version(package) for package in packages} | {"python": platform.python_version()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{date}.json"
    path.write_text(json.dumps({"date": date, "versions": versions, **result}, indent=1) + "\n")
    print(f"recorded in {path}")
    return path
