"""Requests a second and latency of `raypose serve` against FastAPI and LitServe over Ultralytics, on the same cores.

    .venv/bin/python -m benchmarks.serve --weights runs/demo/weights/best.pt [--images FOLDER] [--seconds 20]

Closed loop: each client asks again when it is answered, on one connection, with the images in turn. Contestants run one
after the other, each for all numbers of clients. The clients share the machine with the server, as small as can be.
LitServe lives in .peers/ (`make peers`). `overhead_ms` is what one client waits beyond the bare back end's call. The
two take turns, the service idle meanwhile, and the median difference counts: a shared machine changes its speed within
seconds. The last line is JSON; results and a plot are dated files in results/.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks.record import PACKAGES, machine, record
from raypose.data.synth import synthesize
from raypose.vision.decode import decode_rgb
from raypose.vision.draw import encode_jpeg

HERE = Path(__file__).parent
CLIENTS = (1, 4, 16, 64)
CONTESTANTS = ("raypose", "raypose_bfloat16", "fastapi", "litserve", "litserve_backend")
_TURNS = 5
_SIZES = (480, 640, 810, 1080, 1280)
_ENVIRONMENT = os.environ | {"YOLO_OFFLINE": "true", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, slots=True)
class Point:
    """One contestant at one number of clients."""

    contestant: str
    clients: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    model_busy: float | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """One client of raypose, and the bare back end's call right before it: median milliseconds."""

    p50_ms: float
    bare_ms: float


def main() -> None:
    arguments = _arguments()
    images = arguments.images or draw_images(arguments.work / "serve-images")
    bodies = [path.read_bytes() for path in sorted(images.glob("*.jpg"))[:64]]
    points: list[Point] = []
    beside: list[Beside] = []
    for contestant in arguments.only or CONTESTANTS:
        with running_server(contestant, arguments.weights) as port:
            for clients in CLIENTS:
                points.append(_measure(contestant, port, bodies, clients, arguments.seconds))
                print(points[-1], flush=True)
            if contestant == "raypose":
                beside = _beside_the_bare_call(port, bodies, arguments, images)
    summary = _summary(points, beside)
    _keep(points, beside, summary, arguments, len(bodies))
    print(json.dumps(summary))


def _beside_the_bare_call(
    port: int, bodies: Sequence[bytes], arguments: argparse.Namespace, images: Path
) -> list[Beside]:
    found = []
    for _ in range(_TURNS):
        bare_ms = float(_output("bare", arguments.weights, str(images)))
        found.append(Beside(_measure("raypose", port, bodies, 1, arguments.seconds / 2).p50_ms, round(bare_ms, 1)))
        print(found[-1], flush=True)
    return found


def _summary(points: Sequence[Point], beside: Sequence[Beside]) -> dict[str, float | None]:
    best = {
        name: max((point.requests_per_second for point in points if point.contestant == name), default=0.0)
        for name in CONTESTANTS
    }

    def ratio(name: str) -> float | None:
        return round(best["raypose"] / best[name], 2) if best[name] and best["raypose"] else None

    busy = [point.model_busy for point in points if point.contestant == "raypose" and point.model_busy is not None]
    return {
        "ratio": ratio("fastapi"),
        "ratio_litserve": ratio("litserve"),
        "ratio_litserve_backend": ratio("litserve_backend"),
        "ratio_bfloat16": round(best["raypose_bfloat16"] / best["fastapi"], 2) if best["fastapi"] else None,
        "requests_per_second": round(best["raypose"], 1),
        "bare_ms": statistics.median(turn.bare_ms for turn in beside) if beside else None,
        "overhead_ms": round(statistics.median(turn.p50_ms - turn.bare_ms for turn in beside), 2) if beside else None,
        "model_busy": round(max(busy), 3) if busy else None,
    }


def _measure(contestant: str, port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Point:
    requests = http_requests(contestant, bodies)
    # Warm: the first batches of a size are slow everywhere.
    asyncio.run(under_load(port, requests, clients, seconds / 4))
    before = _busy_s(port) if contestant.startswith("raypose") else 0.0
    started_s = time.perf_counter()
    latencies_s, failed = asyncio.run(under_load(port, requests, clients, seconds))
    wall_s = time.perf_counter() - started_s
    busy = (_busy_s(port) - before) / wall_s if contestant.startswith("raypose") else None
    latencies_s.sort()
    return Point(
        contestant,
        clients,
        round(len(latencies_s) / wall_s, 2),
        round(statistics.median(latencies_s) * 1000, 1),
        round(latencies_s[int(len(latencies_s) * 0.99)] * 1000, 1),
        failed,
        None if busy is None else round(busy, 3),
    )


def http_requests(contestant: str, bodies: Sequence[bytes]) -> list[bytes]:
    """As they go over the wire."""
    path, kind = "/v1/predict" if contestant.startswith("raypose") else "/predict", "image/jpeg"
    if contestant.startswith("litserve"):
        kind = "application/json"
        bodies = [json.dumps({"image": base64.b64encode(body).decode()}).encode() for body in bodies]
    return [
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]


async def under_load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer that a closed loop of so many clients got, and how many requests failed."""
    latencies_s: list[float] = []
    failed = 0
    end_s = time.perf_counter() + seconds

    async def client(first: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        number = first
        while time.perf_counter() < end_s:
            start_s = time.perf_counter()
            writer.write(requests[number % len(requests)])
            status, closes = await read_response(reader)
            if status == 200:
                latencies_s.append(time.perf_counter() - start_s)
            else:
                failed += 1
                await asyncio.sleep(0.05)
            if closes:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            number += 1
        writer.close()

    await asyncio.gather(*(client(index * 7) for index in range(clients)))
    return latencies_s, failed


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status of the next response, read to its end, and whether the connection ends with it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"content-length:" in head:
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        while size := int((await reader.readline()).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split()[1]), b"connection: close" in head


def _busy_s(port: int) -> float:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("raypose_serve_model_busy_seconds_total"))


@contextlib.contextmanager
def running_server(contestant: str, weights: Path, *, queue_images: int = 256) -> Iterator[int]:
    """The port of a contestant's server, which ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        _command(contestant, weights, str(port), queue_images), env=_ENVIRONMENT, start_new_session=True
    )
    try:
        _wait_until_it_answers(process, port, contestant)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(90)
        with contextlib.suppress(ProcessLookupError):  # LitServe leaves its workers behind
            os.killpg(process.pid, signal.SIGKILL)


def _command(contestant: str, weights: Path, rest: str, queue_images: int = 0) -> list[str]:
    if contestant.startswith("raypose"):
        # Scores of bfloat16 move by more than the default allows.
        tolerance = [] if contestant == "raypose" else ["compute.score_tolerance=0.05"]
        limit = f"limits.queue_images={queue_images}"
        settings = [*tolerance, "compute.imgsz=640", "access.log=false", f"http.port={rest}", limit]
        return [sys.executable, "-c", "from raypose.cli import main; main()", "serve", str(weights), *settings]
    if contestant.startswith("litserve"):
        return [str(HERE.parent / ".peers/bin/python"), str(HERE / "serve_litserve.py"), contestant, str(weights), rest]
    return [sys.executable, str(HERE / "serve_contestants.py"), contestant, str(weights), rest]


def _output(contestant: str, weights: Path, rest: str) -> str:
    done = subprocess.run(
        _command(contestant, weights, rest), env=_ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip().splitlines()[-1]


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, contestant: str) -> None:
    body = next(iter(synthesize(1, 1, 640))).image
    deadline_s, waiting_for = time.monotonic() + 300, OSError("no answer")
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            sys.exit(f"{contestant} ended with exit code {process.returncode} before it answered")
        try:
            latencies_s, _ = asyncio.run(under_load(port, http_requests(contestant, [body]), 1, 0.1))
            if latencies_s:
                return
        except (OSError, asyncio.IncompleteReadError) as error:
            waiting_for = error
        time.sleep(1)
    sys.exit(f"{contestant} did not answer within 300 s: {waiting_for}")


def _keep(
    points: Sequence[Point],
    beside: Sequence[Beside],
    summary: dict[str, float | None],
    arguments: argparse.Namespace,
    images: int,
) -> None:
    result = {
        "machine": machine(),
        "settings": {"seconds": arguments.seconds, "images": images, "imgsz": 640, "weights": arguments.weights.name},
        "summary": summary,
        "points": [asdict(point) for point in points],
        "beside_the_bare_call": [asdict(turn) for turn in beside],
    }
    path = record("serve", result, packages=(*PACKAGES, "openvino", "onnxruntime"))
    _plot(points, path.with_suffix(".png"))


def _plot(points: Sequence[Point], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name in dict.fromkeys(point.contestant for point in points):
        own = [point for point in points if point.contestant == name]
        axes.plot([point.requests_per_second for point in own], [point.p50_ms for point in own], "o-", label=name)
        for point in own:
            axes.annotate(str(point.clients), (point.requests_per_second, point.p50_ms), fontsize=8)
    axes.set(xlabel="requests a second", ylabel="median latency, ms", yscale="log", title="1, 4, 16, 64 clients")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def draw_images(folder: Path) -> Path:
    """Drawn people in photographs of mixed sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(40):
        size_px = _SIZES[number % len(_SIZES)]
        (sample,) = synthesize(1, 5, size_px, start=number)
        (folder / f"{number:03d}.jpg").write_bytes(encode_jpeg(decode_rgb(sample.image, sample.id)))
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--weights", type=Path, required=True, help="a .pt of yolo11n-pose")
    parser.add_argument("--images", type=Path, help="folder of JPEGs; by default drawn people of mixed sizes")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--only", action="append", choices=CONTESTANTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
