"""Ending a training worker while it downloads a shard."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from tests.processes import processes_below


def kill_who_downloads(cache: Path, driver: psutil.Process, patience_s: float = 120) -> int:
    """SIGKILL for a worker of this driver's Ray while it holds the claim on a shard that it fetches; its pid."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        for process in processes_below(driver.pid, "RayTrainWorker"):
            with contextlib.suppress(psutil.Error):
                if not _downloads(process, cache):
                    continue
                process.suspend()
                if _downloads(process, cache):  # and no longer finishes before the next line
                    process.kill()
                    return process.pid
                process.resume()
        time.sleep(0.01)
    raise TimeoutError(f"no worker downloaded anything into {cache} for {patience_s:g} s")


def _downloads(process: psutil.Process, cache: Path) -> bool:
    return any(str(cache / "fetching") in file.path for file in process.open_files())
