"""A model that is to be validated, and how: in words, which travel to whoever predicts with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from raypose.checkpoint import local_model
from raypose.inference import ComputePrecision, Predictor, Views


@dataclass(frozen=True, slots=True)
class Candidate:
    """`model` is a place that `local_model` understands on every node; `imgsz` None means the model's own."""

    model: str
    imgsz: int | None
    conf: float
    iou: float
    max_det: int
    device: str = "auto"
    precision: ComputePrecision = "auto"
    views: Views = field(default_factory=Views)

    def open(self) -> Predictor:
        """A predictor whose results do not depend on the number of cores."""
        with local_model(self.model) as path:
            return Predictor.load(
                path,
                self.imgsz,
                device=self.device,
                conf=self.conf,
                iou=self.iou,
                max_det=self.max_det,
                precision=self.precision,
                views=self.views,
                one_thread=True,
            )
