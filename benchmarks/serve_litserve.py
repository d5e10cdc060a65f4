"""The LitServe contestant of benchmarks/serve.py: `serve_litserve.py litserve|litserve_backend WEIGHTS PORT`.

A file of its own, because LitServe sends the class to a process that imports this file again. LitServe takes no raw
bytes, so it gets base64 in JSON, which costs it a fraction of a millisecond.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from serve_contestants import BATCH, IMGSZ, as_answer, bgr_pixels, open_predictor


class PoseApi(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """Batches of `YOLO.predict`, or of raypose's predictor over the back end that raypose would choose."""

    def __init__(self, weights: Path, *, backend: bool) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.005)
        self.weights, self.backend = weights, backend

    def setup(self, device: str) -> None:
        if self.backend:
            self.model = open_predictor(self.weights)
            return
        from ultralytics import YOLO

        self.model = YOLO(self.weights)

    def decode_request(self, request: dict[str, str]) -> Any:
        return bgr_pixels(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, images: list[Any]) -> list[Any]:
        if not self.backend:
            return [as_answer(result) for result in self.model.predict(images, imgsz=IMGSZ, verbose=False)]
        found = self.model.predict([np.ascontiguousarray(image[:, :, ::-1]) for image in images])
        return [
            [
                {"box": box, "score": score, "keypoints": points}
                for box, score, points in zip(
                    poses.box_xyxy_N4.tolist(), poses.score_N.tolist(), poses.keypoints_NK3.tolist(), strict=True
                )
            ]
            for poses in found
        ]

    def encode_response(self, output: Any) -> Any:
        return {"people": output}


if __name__ == "__main__":
    api = PoseApi(Path(sys.argv[2]), backend=sys.argv[1] == "litserve_backend")
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(sys.argv[3]), host="127.0.0.1", log_level="error", generate_client_file=False)
