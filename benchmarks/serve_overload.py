"""What `raypose serve` does with five times the requests it can answer, for two minutes.

    .venv/bin/python -m benchmarks.serve_overload --weights yolo11n-pose.pt [--images FOLDER] [--seconds 120]

Capacity is what a closed loop gets answered that keeps the queue full and is never refused: as many clients as
`limits.queue_images` allows. Then requests come at `--times` that rate, whether the ones before are answered or not,
each on a connection that is free or on a new one. Every answer has to be 200 or 429. The clients share the machine with
the server. `p99_ratio` is the 99th percentile of accepted requests over that at capacity, `memory_growth` the replica's
memory in the last quarter over that in the second. The last line is JSON, and the whole result is a dated file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import PACKAGES, RESULTS, machine, record
from benchmarks.serve import draw_images, http_requests, read_response, running_server, under_load

QUEUE_IMAGES = 64
SAMPLE_EVERY_S = 1.0


@dataclass
class Flood:
    """What came of the requests of an open loop."""

    statuses: Counter[str] = field(default_factory=Counter)
    accepted_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)


async def flood(port: int, requests: Sequence[bytes], per_second: float, seconds: float) -> Flood:
    """Requests at a fixed rate, until `seconds` have passed and all of them are answered."""
    found = Flood()
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    under_way: set[asyncio.Task[None]] = set()

    async def ask(number: int) -> None:
        start_s = time.perf_counter()
        try:
            reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
            writer.write(requests[number % len(requests)])
            status, closes = await read_response(reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            found.statuses[type(error).__name__] += 1
            return
        found.statuses[str(status)] += 1
        if status == 200:
            found.accepted_s.append(time.perf_counter() - start_s)
        if closes:
            writer.close()
        else:
            free.append((reader, writer))

    start_s = time.perf_counter()
    number = 0
    while (passed_s := time.perf_counter() - start_s) < seconds:
        while number < passed_s * per_second:
            task = asyncio.create_task(ask(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        if len(found.memory_mib) * SAMPLE_EVERY_S < passed_s:
            found.memory_mib.append(replica_mib())
        await asyncio.sleep(0.005)
    await asyncio.gather(*under_way)
    for _, writer in free:
        writer.close()
    return found


def replica_mib() -> float:
    """Resident memory of the service's replicas."""
    total = 0
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        command, memory = process.info["cmdline"], process.info["memory_info"]
        if command and memory and command[0].startswith("ray::ServeReplica"):
            total += memory.rss
    return total / 2**20


def summarize(found: Flood, seconds: float, capacity: float, p99_ms: float, refused: int) -> dict[str, Any]:
    quarter = len(found.memory_mib) // 4
    early_mib = statistics.median(found.memory_mib[quarter : 2 * quarter])
    late_mib = statistics.median(found.memory_mib[-quarter:])
    accepted_s = sorted(found.accepted_s)
    accepted_p99_ms = accepted_s[int(len(accepted_s) * 0.99)] * 1000
    return {
        "p99_ratio": round(accepted_p99_ms / p99_ms, 2),
        "memory_growth": round(late_mib / early_mib, 3),
        "statuses": dict(found.statuses),
        "only_200_and_429": set(found.statuses) <= {"200", "429"},
        "capacity_per_second": round(capacity, 2),
        "refused_at_capacity": refused,
        "accepted_of_capacity": round(len(accepted_s) / seconds / capacity, 2),
        "p99_ms_at_capacity": round(p99_ms, 1),
        "p99_ms_accepted": round(accepted_p99_ms, 1),
        "memory_mib": round(late_mib, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="a .pt of yolo11n-pose")
    parser.add_argument("--images", type=Path, help="folder of JPEGs; by default drawn people of mixed sizes")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--times", type=float, default=5.0, help="requests, in capacities")
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    at_start = machine()
    images = given.images or draw_images(given.work / "serve-images")
    requests = http_requests("raypose", [path.read_bytes() for path in sorted(images.glob("*.jpg"))[:64]])
    with running_server("raypose", given.weights, queue_images=QUEUE_IMAGES) as port:
        asyncio.run(under_load(port, requests, QUEUE_IMAGES, given.seconds / 12))  # warm
        latencies_s, refused = asyncio.run(under_load(port, requests, QUEUE_IMAGES, given.seconds / 4))
        capacity = len(latencies_s) / (given.seconds / 4)
        p99_ms = sorted(latencies_s)[int(len(latencies_s) * 0.99)] * 1000
        print(f"capacity: {capacity:.1f} requests a second, p99 {p99_ms:.0f} ms, {refused} refused", flush=True)
        found = asyncio.run(flood(port, requests, given.times * capacity, given.seconds))
    summary = summarize(found, given.seconds, capacity, p99_ms, refused)
    settings = {"seconds": given.seconds, "times": given.times, "queue_images": QUEUE_IMAGES, "imgsz": 640}
    result = {"machine": at_start, "settings": settings, **summary}
    record("serve_overload", result, given.results, packages=(*PACKAGES, "openvino"))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
