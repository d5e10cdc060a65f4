"""Processes that a test has started, by way of others, and wants to stop, kill or count."""

from __future__ import annotations

import contextlib

import psutil


def processes_below(ancestor: int, word: str) -> list[psutil.Process]:
    """Those that descend from a process id and have `word` in their command line."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found
