"""The servers that benchmarks/serve.py compares: `serve_contestants.py KIND WEIGHTS PORT`, as their own docs have it.

KIND is fastapi, or bare with a folder of images in the place of the port, which prints the milliseconds of the back end
alone. Contestants take JPEGs at 640 pixels and answer with boxes, scores and keypoints.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Request

IMGSZ, BATCH = 640, 8


def bgr_pixels(content: bytes) -> Any:
    """As OpenCV and Ultralytics have them."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def as_answer(result: Any) -> list[dict[str, Any]]:
    """A result of Ultralytics as JSON has it."""
    keypoints = result.keypoints.data.tolist()
    return [
        {"box": box, "score": score, "keypoints": points}
        for box, score, points in zip(result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), keypoints, strict=True)
    ]


def run_fastapi(weights: Path, port: int) -> None:
    """FastAPI before `YOLO.predict`, one at a time, which is what its documentation asks for."""
    import uvicorn
    from starlette.concurrency import run_in_threadpool
    from ultralytics import YOLO

    app, model, one = FastAPI(), YOLO(weights), threading.Lock()

    def predict(content: bytes) -> list[dict[str, Any]]:
        with one:
            return as_answer(model.predict(bgr_pixels(content), imgsz=IMGSZ, verbose=False)[0])

    @app.post("/predict")
    async def endpoint(request: Request) -> list[dict[str, Any]]:
        return await run_in_threadpool(predict, await request.body())

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def open_predictor(weights: Path) -> Any:
    """raypose's predictor, over the back end that its service would choose."""
    from raypose.config.serve_schema import ComputeConfig
    from raypose.inference import Predictor
    from raypose.serve.compute import open_compute

    with tempfile.TemporaryDirectory() as scratch:
        compute = open_compute(weights, ComputeConfig(imgsz=IMGSZ), Path(scratch))
    return Predictor(compute.backend, compute.imgsz, conf=0.25, iou=0.7, max_det=300)


def print_bare(weights: Path, images: Path) -> None:
    """Milliseconds of the bare back end for one canvas, median over the images, in the order they are asked in."""
    from raypose.vision.decode import decode_rgb

    predictor = open_predictor(weights)
    canvases = [predictor.fit(decode_rgb(path.read_bytes(), path.name), path.name).canvases[0][None]
                for path in sorted(images.glob("*.jpg"))]  # fmt: skip
    calls = []
    for _ in range(3):
        for canvas_1HW3 in canvases:
            start_s = time.perf_counter()
            predictor._backend(canvas_1HW3)
            calls.append((time.perf_counter() - start_s) * 1000)
    print(statistics.median(calls[len(canvases) :]))


def main() -> None:
    kind, weights, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if kind == "fastapi":
        run_fastapi(weights, int(rest))
    elif kind == "bare":
        print_bare(weights, Path(rest))
    else:
        sys.exit(f"no contestant is called {kind}")


if __name__ == "__main__":
    main()
