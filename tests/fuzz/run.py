"""Fuzz what reads files from strangers: `python -m tests.fuzz.run --minutes 10`. Nothing but DataError may come out.

Each case follows from the seed, the target and its number, so `--seed 1 --target shard --only 4711` shows one again.
Cases run in child processes, which a crash of an image codec, a case of over TIMEOUT_S seconds or too much memory
ends; the parent names the case and goes on with the next.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import psutil

from tests.fuzz.targets import TARGETS

TIMEOUT_S = 20
MEMORY_BYTES = 4 << 30
"""Beyond what the process had reserved before it began: torch alone reserves several GiB of addresses."""
BATCH = 2_000
MAX_FAULTS = 20


@dataclass
class Outcome:
    """How many cases of each target ran, and what went wrong in which."""

    cases: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def run_case(target: str, seed: int, number: int) -> None:
    TARGETS[target](random.Random(f"{seed} {target} {number}"))


def fuzz(seed: int, *, minutes: float | None = None, cases: int | None = None) -> Outcome:
    """Run all targets in turn, for a time or a number of cases each."""
    outcome = Outcome(dict.fromkeys(TARGETS, 0))
    ends_s = None if minutes is None else time.monotonic() + 60 * minutes
    while len(outcome.faults) < MAX_FAULTS:
        for target, begin in outcome.cases.items():
            end = begin + BATCH if cases is None else min(begin + BATCH, cases)
            outcome.cases[target] = _run_batch(target, seed, begin, end, ends_s, outcome.faults)
        if ends_s is not None and time.monotonic() > ends_s:
            break
        if cases is not None and min(outcome.cases.values()) >= cases:
            break
    return outcome


def _run_batch(target: str, seed: int, begin: int, end: int, ends_s: float | None, faults: list[str]) -> int:
    """Cases begin to end, or until the time is over, in one child; returns where to go on."""
    context = multiprocessing.get_context("fork")
    number = context.Value("q", begin)
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_run_cases, args=(target, seed, end, ends_s, number, sending))
    child.start()
    sending.close()
    child.join()
    if child.exitcode == 0:
        return number.value
    reason = receiving.recv() if receiving.poll() else f"ended with {child.exitcode}"
    faults.append(f"--target {target} --seed {seed} --only {number.value}: {reason}")
    return number.value + 1


def _run_cases(target: str, seed: int, end: int, ends_s: float | None, number: Synchronized[int], answer: Any) -> None:
    limit = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # image codecs complain of every case
    signal.signal(signal.SIGALRM, _give_up)
    try:
        while number.value < end and (ends_s is None or time.monotonic() < ends_s):
            signal.alarm(TIMEOUT_S)
            run_case(target, seed, number.value)
            signal.alarm(0)
            number.value += 1
    except BaseException:
        answer.send(traceback.format_exc(limit=-3))
        os._exit(1)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"over {TIMEOUT_S} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz labels, shards, manifests and images.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--target", choices=list(TARGETS))
    parser.add_argument("--only", type=int, help="run one case in this process")
    arguments = parser.parse_args()
    if arguments.only is not None:
        run_case(arguments.target, arguments.seed, arguments.only)
        return
    outcome = fuzz(arguments.seed, minutes=arguments.minutes)
    for fault in outcome.faults:
        print(fault)
    counted = ", ".join(f"{target} {cases:,}" for target, cases in outcome.cases.items())
    print(f"seed {arguments.seed}: {sum(outcome.cases.values()):,} cases ({counted}), {len(outcome.faults)} faults")
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
