"""What a replica tells Prometheus. Names end in their units; labels are few and known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from raypose.structures import Poses

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_COUNTS = (0, 1, 2, 3, 5, 8, 12, 20, 50, 100, 300)
_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
_SCORES = tuple(step / 20 for step in range(1, 21))
_VERSIONS = 4
"""Whose people and scores are told: those that may answer, and two of before. A followed run has any number of them."""
_MEGAPIXELS = (0.1, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0, 50.0)


class ServeMetrics:
    """Counters and histograms of one replica. Every series has its `replica`: sum over it for the service."""

    def __init__(self, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self._versions: list[str] = []
        self._requests = Counter(
            "raypose_serve_requests", "Requests by path and code of the answer (ok, or why not).",
            ("replica", "path", "code"), registry=self.registry,
        )  # fmt: skip
        self._seconds = self._histogram(
            "request_seconds", "From the head of a request to its answer.", _SECONDS, "path"
        )
        self._stages = self._histogram(
            "stage_seconds", "Of an image: decode, queue, inference (its batch) and select.", _SECONDS, "stage"
        )
        self._batches = self._histogram("batch_images", "Images that went through the model together.", _BATCHES)
        self._people = self._histogram("people", "People found in an image.", _COUNTS, "version")
        self._scores = self._histogram("scores", "Scores of the people found.", _SCORES, "version")
        self._pixels = self._histogram("image_megapixels", "Size of the images sent, in 10^6 pixels.", _MEGAPIXELS)
        self._drift = self._gauge(
            "drift", "Population stability index of the newest images against the reference set.", "version", "of"
        )
        self._busy = Counter(
            "raypose_serve_model_busy_seconds",
            "Time in which the model computed; of a call on one of n cores an nth.",
            ("replica",), registry=self.registry,
        )  # fmt: skip
        self._pending = self._gauge("queue_images", "Images accepted and not answered yet.")
        self._model = self._gauge("model_info", "1 for each model that answers.", "role", "version", "compute")
        self._swaps = Counter(
            "raypose_serve_model_changes", "Attempts to serve another model: changed, or refused.",
            ("replica", "outcome"), registry=self.registry,
        )  # fmt: skip
        for outcome in ("changed", "refused"):
            self._swaps.labels(replica, outcome)  # as 0 from the first scrape: to see it grow takes two values

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(
            f"raypose_serve_{name}", text, ("replica", *labels), registry=self.registry, buckets=tuple(buckets)
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"raypose_serve_{name}", text, ("replica", *labels), registry=self.registry)

    def request(self, path: str, code: str, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(self._replica, path, code).inc()
        self._seconds.labels(self._replica, path).observe(seconds)

    def batch(self, images: int, inference_s: float) -> None:
        """A call of the model ended."""
        self._batches.labels(self._replica).observe(images)
        self._busy.labels(self._replica).inc(inference_s)

    def image(self, version: str, poses: Poses, megapixels: float, stage_s: dict[str, float]) -> None:
        """An image was answered."""
        for stage, seconds in stage_s.items():
            self._stages.labels(self._replica, stage).observe(seconds)
        self._people.labels(self._replica, version).observe(len(poses))
        self._pixels.labels(self._replica).observe(megapixels)
        scores = self._scores.labels(self._replica, version)
        for score in poses.score_N.tolist():
            scores.observe(score)

    def pending(self, images: int) -> None:
        """So many images are on their way."""
        self._pending.labels(self._replica).set(images)

    def models(self, serving: Sequence[tuple[str, str, str]]) -> None:
        """Role, version and back end of each model that answers from now on."""
        self._model.clear()
        self._drift.clear()
        for role, version, compute in serving:
            self._model.labels(self._replica, role, version, compute).set(1)
        now = list(dict.fromkeys(version for _, version, _ in serving))
        self._versions = [version for version in self._versions if version not in now] + now
        while len(self._versions) > _VERSIONS:
            forgotten = self._versions.pop(0)
            for histogram in (self._people, self._scores):
                histogram.remove(self._replica, forgotten)

    def drift(self, version: str, indices: Mapping[str, float]) -> None:
        """How far images are from the reference of a model."""
        for of, index in indices.items():
            self._drift.labels(self._replica, version, of).set(index)

    def change(self, outcome: str) -> None:
        """Another model was asked for."""
        self._swaps.labels(self._replica, outcome).inc()

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
