"""The servers that benchmarks/serve.py compares: `serve_contestants.py KIND WEIGHTS PORT`, as their own docs have it.

All take JPEGs at 640 pixels and answer with boxes, scores and keypoints. LitServe takes no raw bytes, so it gets base64
in JSON, which costs it a fraction of a millisecond.
"""

from __future__ import annotations

import base64
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

IMGSZ, BATCH = 640, 8


def _pixels(content: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def _answer(result: Any) -> list[dict[str, Any]]:
    keypoints = result.keypoints.data.tolist()
    return [
        {"box": box, "score": score, "keypoints": points}
        for box, score, points in zip(result.boxes.xyxy.tolist(), result.boxes.conf.tolist(), keypoints, strict=True)
    ]


def run_fastapi(weights: Path, port: int) -> None:
    """FastAPI before `YOLO.predict`, one at a time, which is what its documentation asks for."""
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.concurrency import run_in_threadpool
    from ultralytics import YOLO

    app, model, one = FastAPI(), YOLO(weights), threading.Lock()

    def predict(content: bytes) -> list[dict[str, Any]]:
        with one:
            return _answer(model.predict(_pixels(content), imgsz=IMGSZ, verbose=False)[0])

    @app.post("/predict")
    async def endpoint(request: Request) -> list[dict[str, Any]]:
        return await run_in_threadpool(predict, await request.body())

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def run_litserve(weights: Path, port: int, *, backend: bool) -> None:
    """LitServe with batching, over `YOLO.predict` or over raypose's predictor and back end."""
    import litserve

    class Api(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
        def setup(self, device: str) -> None:
            if backend:
                self.model = _predictor(weights)
                return
            from ultralytics import YOLO

            self.model = YOLO(weights)

        def decode_request(self, request: dict[str, str]) -> Any:
            return _pixels(base64.b64decode(request["image"]))

        def batch(self, inputs: list[Any]) -> list[Any]:
            return inputs

        def unbatch(self, output: list[Any]) -> list[Any]:
            return output

        def predict(self, images: list[Any]) -> list[Any]:
            if backend:
                found = self.model.predict([np.ascontiguousarray(image[:, :, ::-1]) for image in images])
                return [
                    {
                        "box": poses.box_xyxy_N4.tolist(),
                        "score": poses.score_N.tolist(),
                        "keypoints": poses.keypoints_NK3.tolist(),
                    }
                    for poses in found
                ]
            return [_answer(result) for result in self.model.predict(images, imgsz=IMGSZ, verbose=False)]

        def encode_response(self, output: Any) -> Any:
            return {"people": output}

    api = Api(max_batch_size=BATCH, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(
        port=port, host="127.0.0.1", log_level="error", generate_client_file=False
    )


def _predictor(weights: Path) -> Any:
    from raypose.config.serve_schema import ComputeConfig
    from raypose.inference import Predictor
    from raypose.serve.compute import open_compute

    with tempfile.TemporaryDirectory() as scratch:
        compute = open_compute(weights, ComputeConfig(imgsz=IMGSZ), Path(scratch))
    return Predictor(compute.backend, compute.imgsz, conf=0.25, iou=0.7, max_det=300)


def print_bare(weights: Path, images: Path) -> None:
    """Milliseconds of the bare back end for one canvas, median over the images, in the order they are asked in."""
    from raypose.vision.decode import decode_rgb

    predictor = _predictor(weights)
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
        run_litserve(weights, int(rest), backend=kind == "litserve_backend")


if __name__ == "__main__":
    main()
