"""Images a second of `raypose predict` from and to object storage: against its own back end, and `yolo predict`.

    .venv/bin/python -m benchmarks.predict --weights runs/demo/weights/best.pt [--images 5000] [--data FOLDER]

For raypose the images lie in a bucket of an S3 server on this machine (Ceph's gateway where it is installed, else
moto), for Ultralytics in a local folder. `bare` is the back end in a loop over images that are decoded and scaled
already: in one call at a time on all cores, and in a call on each core; the better one counts. raypose and its bare
back end compute in bfloat16 where the CPU has it (`--precision`), and Ultralytics in float32, as it does. Each command
runs on a small set and on a large one, and the difference counts, so that starting up does not; `ratio_whole_command`
is with it. Then the large set is predicted once more, a worker and later the driver killed with -9 and the command
given again. The last line is JSON, and the whole result a dated file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.object_store import s3_server
from benchmarks.record import PACKAGES, machine, record
from raypose import api
from raypose.data.synth import synthesize
from raypose.inference import ComputePrecision, Fitted, Predictor, lanes_of
from raypose.model import multiplies_bfloat16
from raypose.storage import open_store
from raypose.vision.decode import decode_rgb
from tests.s3.servers import SERVER_ENVIRONMENT, client_of

BUCKET = "predict-benchmark"
IMGSZ = 640
SMALL = 256
DRAWN = 256
BARE_IMAGES = 256
BARE_S = 15.0
_BIN = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="a .pt that both load")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--data", type=Path, help="a folder of JPEGs, repeated; drawn people by default")
    parser.add_argument("--workers", type=int, default=1, help="actors; each gets its share of the cores")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="bfloat16" if multiplies_bfloat16("cpu") else "float32"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/bench-predict"))
    parser.add_argument("--skip", nargs="*", default=[], choices=["yolo", "kill"])
    given = parser.parse_args()
    if given.images <= SMALL:
        parser.error(f"--images {given.images}: more than {SMALL}, which the small set has")
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    os.environ.update(SERVER_ENVIRONMENT)
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", YOLO_OFFLINE="true")
    with s3_server(given.work.absolute() / "s3") as (server, endpoint):
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        result = compare(given) | {"server": server}
    summary = summarise(result)
    asked = {name: getattr(given, name) for name in ("images", "workers", "precision")}
    settings = {**asked, "imgsz": IMGSZ, "weights": given.weights.name}
    record(
        "predict",
        {"machine": machine(), "settings": settings, "summary": summary, **result},
        packages=(*PACKAGES, "openvino"),
    )
    print(json.dumps(summary))


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each command, images a second of the bare back end before and after them, and what the kills did."""
    model = api.export(given.weights, to="openvino", out=given.work / "model_openvino", imgsz=IMGSZ, dynamic=True)
    folders = write_images(given)
    seconds: dict[str, float] = {}
    bare = [bare_rates(model, folders["small"], given.precision)]
    for name in folders:
        seconds[f"raypose_{name}"] = timed(raypose_command(model, name, f"out-{name}", given))
    if "yolo" not in given.skip:
        for name, folder in folders.items():
            seconds[f"yolo_{name}"] = timed(yolo_command(given, folder))
    bare.append(bare_rates(model, folders["small"], given.precision))
    result: dict[str, Any] = {"seconds": seconds, "bare_images_per_second": bare, "images": given.images}
    if "kill" not in given.skip:
        result["killed"] = killed(raypose_command(model, "large", "out-killed", given), given)
    return result


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    seconds, more = result["seconds"], result["images"] - SMALL
    bare = max(rate for rates in result["bare_images_per_second"] for rate in rates.values())
    raypose = more / (seconds["raypose_large"] - seconds["raypose_small"])
    summary: dict[str, Any] = {
        "ratio": round(raypose / bare, 3),
        "ratio_whole_command": round(result["images"] / seconds["raypose_large"] / bare, 3),
        "images_per_second": round(raypose, 2),
        "bare_images_per_second": round(bare, 2),
    }
    if "yolo_large" in seconds:
        yolo = more / (seconds["yolo_large"] - seconds["yolo_small"])
        summary |= {
            "ratio_yolo": round(raypose / yolo, 2),
            "ratio_yolo_whole_command": round(seconds["yolo_large"] / seconds["raypose_large"], 2),
            "yolo_images_per_second": round(yolo, 2),
        }
    return summary | result.get("killed", {})


def write_images(given: argparse.Namespace) -> dict[str, Path]:
    """The small set and the large one, as folders and below the same names in the bucket."""
    images = list(islice(cycle(_images(given.data)), given.images))
    client = client_of(os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket=BUCKET)
    folders = {name: given.work / "images" / name for name in ("small", "large")}
    with ThreadPoolExecutor(8) as pool:
        for (name, folder), count in zip(folders.items(), (SMALL, given.images), strict=True):
            folder.mkdir(parents=True)
            for number, content in enumerate(images[:count]):
                key = f"{number:06}.jpg"
                (folder / key).write_bytes(content)
                pool.submit(client.put_object, Bucket=BUCKET, Key=f"{name}/{key}", Body=content)
    found = sum(1 for _ in open_store(f"s3://{BUCKET}/large").list())
    if found != given.images:
        raise SystemExit(f"{found} of {given.images} images arrived in the bucket")
    return folders


def _images(folder: Path | None) -> list[bytes]:
    if folder is None:
        return [sample.image for sample in synthesize(DRAWN, seed=11, size_px=IMGSZ)]
    images = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    if not images:
        raise SystemExit(f"{folder}: no .jpg in it")
    return images


def bare_rates(model: str, folder: Path, precision: ComputePrecision) -> dict[str, float]:
    """Images a second of the back end alone, a call at a time and a call on each core."""
    rates = {}
    for name, one_thread in (("all_cores", False), ("each_core", True)):
        predictor = Predictor.load(model, IMGSZ, device="cpu", precision=precision, one_thread=one_thread)
        canvases = _canvases(predictor, folder)
        _loop(predictor, canvases, BARE_S / 6)
        rates[name] = round(_loop(predictor, canvases, BARE_S), 2)
    print(f"bare {rates}", flush=True)
    return rates


def _canvases(predictor: Predictor, folder: Path) -> list[list[Fitted]]:
    """Images as the model takes them, as many together as it takes in a call, all of one shape."""
    by_shape: dict[tuple[int, ...], list[Fitted]] = {}
    for path in sorted(folder.iterdir())[:BARE_IMAGES]:
        fitted = predictor.fit(decode_rgb(path.read_bytes(), path.name), path.name)
        by_shape.setdefault(fitted.canvases[0].shape, []).append(fitted)
    at_once = predictor._backend.images_a_call
    return [group[start : start + at_once] for group in by_shape.values() for start in range(0, len(group), at_once)]


def _loop(predictor: Predictor, groups: Sequence[list[Fitted]], seconds: float) -> float:

    batches = [np.stack([fitted.canvases[0] for fitted in group]) for group in groups]
    end_s = time.perf_counter() + seconds

    with lanes_of(predictor) as lanes, ThreadPoolExecutor(predictor.lanes) as pool:

        def work(lane_number: int) -> int:
            images = 0
            with lanes.one() as lane:
                for batch in islice(cycle(batches), lane_number, None):
                    lane._backend(batch)
                    images += len(batch)
                    if time.perf_counter() >= end_s:
                        return images
            raise AssertionError("the cycle is endless")

        started_s = time.perf_counter()
        done = sum(pool.map(work, range(predictor.lanes)))
        return done / (time.perf_counter() - started_s)


def raypose_command(model: str, source: str, out: str, given: argparse.Namespace) -> list[str]:
    return [
        str(_BIN / "raypose"), "predict", f"s3://{BUCKET}/{source}", "--model", str(Path(model).absolute()), "--out",
        f"s3://{BUCKET}/{out}", "--workers", str(given.workers), "--precision", given.precision, "--no-pictures",
    ]  # fmt: skip


def yolo_command(given: argparse.Namespace, folder: Path) -> list[str]:
    """Without pictures, too; with its results as text files."""
    return [
        str(_BIN / "yolo"), "pose", "predict", f"model={given.weights}", f"source={folder}", f"imgsz={IMGSZ}",
        "device=cpu", "save=False", "save_txt=True", f"project={given.work.absolute()}/yolo", "exist_ok=True",
        "verbose=False",
    ]  # fmt: skip


def timed(command: Sequence[str]) -> float:
    started_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    seconds = time.perf_counter() - started_s
    print(
        f"{seconds:8.1f} s  {' '.join(command)[:150]}\n            {(done.stdout.splitlines() or [''])[-1][:150]}",
        flush=True,
    )
    return round(seconds, 2)


def _environment() -> dict[str, str]:
    """Each command takes the threads that it takes by itself."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def killed(command: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """A worker dies after a fifth of the parts, the driver after half; how many results each input has in the end."""
    out = open_store(f"s3://{BUCKET}/out-killed")
    parts = -(-given.images // 128)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_environment())
    for share, kill in ((0.2, _kill_worker), (0.5, _kill_driver)):
        while sum(1 for _ in out.list("predictions/")) < parts * share:
            if process.poll() is not None:
                raise SystemExit("the driver ended before it could be killed")
            time.sleep(0.5)
        kill(process.pid)
    process.wait()
    before = sum(1 for _ in out.list("predictions/"))
    timed(command)
    results = Counter(_files(out))
    expected = {f"{number:06}.jpg" for number in range(given.images)}
    once = set(results) == expected and set(results.values()) == {1}
    return {"exactly_once": once, "results": results.total(), "parts_before_the_driver_died": before}


def _files(out: Any) -> Iterator[str]:
    for entry in out.list("predictions/"):
        for line in out.read(entry.key).splitlines():
            yield json.loads(line)["file"]


def _kill_worker(driver: int) -> None:
    for child in psutil.Process(driver).children(recursive=True):
        if any("_Actor" in word for word in child.cmdline()):
            child.send_signal(signal.SIGKILL)
            return
    raise SystemExit("no worker to kill was found")


def _kill_driver(driver: int) -> None:
    os.kill(driver, signal.SIGKILL)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
