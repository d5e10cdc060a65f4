"""Every setting of `raypose serve`: which model, how it computes, what a request may ask for and who may ask."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raypose.config.byte_size import ByteSize
from raypose.config.load import check_as, load_as
from raypose.config.schema import STRIDE, Fraction, Place, _Section, absolute_place

Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]
KeyHash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_HASH_OF_NOTHING = f"sha256:{hashlib.sha256(b'').hexdigest()}"
Origin = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\-]+(:\d+)?$")]


class CanaryConfig(_Section):
    model: Place
    """The version on trial, named like `model`. Its skeleton and classes must be those of `model`."""
    share: Fraction = 0.1
    """Share of the requests that it answers."""


class ComputeConfig(_Section):
    backend: Literal["auto", "torch", "onnx", "openvino", "tensorrt"] = "auto"
    """What computes. `auto` tries what is installed on this machine, and takes the fastest of those that agree with
    PyTorch in float32. Exported models are served as they are. `tensorrt` needs an NVIDIA GPU, and onnxruntime-gpu and
    tensorrt from PyPI; compiling for it takes minutes at the start."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` also tries bfloat16 where the hardware multiplies it natively; it, too, has to agree."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    imgsz: Annotated[int, Field(ge=STRIDE, multiple_of=STRIDE)] | None = None
    """Image side in pixels; None is the model's own."""
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    """Most images that go through the model at once. Nothing waits for a batch to fill: it is what has gathered while
    the model was busy."""
    keypoint_tolerance_px: Annotated[float, Field(gt=0.0)] = 0.5
    """How far keypoints may lie from those of PyTorch in float32."""
    score_tolerance: Annotated[float, Field(gt=0.0)] = 0.01


class DefaultsConfig(_Section):
    """What a request gets that does not ask otherwise."""

    conf: Fraction = 0.25
    iou: Fraction = 0.7
    max_det: Annotated[int, Field(ge=1, le=1000)] = 300
    keypoint_conf: Fraction = 0.0
    """Keypoints that are less sure are left out of the answer."""


class LimitsConfig(_Section):
    request_bytes: ByteSize = 32 * 2**20
    """Most bytes of a request's body."""
    image_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 50_000_000
    """Most pixels of an image, judged by its header before memory is spent on it."""
    images: Annotated[int, Field(ge=1, le=1000)] = 16
    """Most images of a request."""
    queue_images: Annotated[int, Field(ge=1)] = 64
    """Images that a replica has accepted and not answered; more are refused with 429."""
    request_s: Seconds = 30.0
    """Seconds from the last byte of a request to its answer; then it is given up with 504."""
    body_s: Seconds = 20.0
    """Seconds a client may take to send a body; then it is refused with 408."""


class AccessConfig(_Section):
    api_keys: Annotated[tuple[KeyHash, ...], Field(strict=False)] = ()
    """`sha256:` and the SHA-256 of each key that may ask for predictions (`printf %s KEY | sha256sum`). Without any,
    everybody may. Keys have to be long and random: their hashes are not salted."""
    cors_origins: Annotated[tuple[Origin, ...], Field(strict=False)] = ()
    """Web pages of these origins may call the service from a browser. None may by default."""
    page: bool = True
    """Serve the web page at `/`."""
    log: bool = True
    """Write a line of JSON for each request to standard output of its replica."""

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, api_keys: tuple[str, ...]) -> tuple[str, ...]:
        if _HASH_OF_NOTHING in api_keys:  # whoever sends no key would be let in
            raise ValueError("one is the SHA-256 of no text at all; was the variable empty that it was made from?")
        return api_keys


class DriftConfig(_Section):
    """With which data requests are compared; see `raypose_serve_drift`."""

    data: Place
    """A shard set, such as the one that the model was validated on."""
    images: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Images of it that a model predicts before it serves."""
    window: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Newest images of requests that are compared, by the thresholds of `defaults`."""


class HttpConfig(_Section):
    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` lets other machines ask."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes one that is free and says which."""
    proxy: Literal["haproxy", "python"] = "haproxy"
    """What stands before the replicas. HAProxy comes with Ray and costs a quarter of the time of the Python proxy."""


class ReplicaConfig(_Section):
    count: Annotated[int, Field(ge=0)] = 1
    """Replicas, and with `most` the least of them."""
    most: Annotated[int, Field(ge=1)] | None = None
    """Let the number grow with the load up to this one. None: it stays at `count`."""
    target_requests: Annotated[float, Field(gt=0.0)] = 8.0
    """Ongoing requests a replica at which the number stays as it is."""
    cpus: Annotated[float, Field(ge=0.0)] | None = None
    """Logical CPUs of each. None: all of this machine's shared out evenly, at least one."""
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    """GPUs of each; 0.5 puts two replicas on one."""
    drain_s: Seconds = 20.0
    """How long a replica that goes away may take to answer what it has accepted."""

    @model_validator(mode="after")
    def _check_most(self) -> ReplicaConfig:
        if self.most is not None and self.most < self.count:
            raise ValueError(f"most {self.most} is below count {self.count}; raise it, or set null for a fixed number")
        if self.count == 0 and self.most is None:
            raise ValueError("count 0 without most would never serve; use 1 or more")
        return self


class ModelsConfig(_Section):
    """Which models answer. All that may change while a service runs, and so all that Ray Serve's `user_config` has."""

    model: Place
    """A run, a checkpoint, an Ultralytics `.pt` or an exported model; a path or an `s3://` URL."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint of a run."""
    follow_s: Seconds | None = None
    """Look this often for a newer checkpoint of the run, and serve it from then on. None: the model stays."""
    canary: CanaryConfig | None = None

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        if not model:
            raise ValueError("is empty; name a run, a checkpoint, a .pt or an exported model")
        return model


class ServeConfig(ModelsConfig):
    """A whole service."""

    name: str = Field(default="pose", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """What clients call the model."""
    compute: ComputeConfig = ComputeConfig()
    defaults: DefaultsConfig = DefaultsConfig()
    limits: LimitsConfig = LimitsConfig()
    access: AccessConfig = AccessConfig()
    drift: DriftConfig | None = None
    http: HttpConfig = HttpConfig()
    replicas: ReplicaConfig = ReplicaConfig()

    def located(self, folder: Path) -> ServeConfig:
        """The same with local paths made absolute: replicas run in folders of their own."""

        def absolute(place: str) -> str:
            return absolute_place(place, folder)

        canary = self.canary and self.canary.model_copy(update={"model": absolute(self.canary.model)})
        drift = self.drift and self.drift.model_copy(update={"data": absolute(self.drift.data)})
        return self.model_copy(update={"model": absolute(self.model), "canary": canary, "drift": drift})


def load_serve_config(path: str | Path | None, overrides: tuple[str, ...] = ()) -> ServeConfig:
    """From YAML and `key.sub=value` overrides; ConfigError names every problem and its place."""
    return load_as(ServeConfig, path, overrides)


def serve_config_of(values: dict[str, Any]) -> ServeConfig:
    """From plain values, as `serveConfigV2` of KubeRay has them under `args`: those of the file, or `config: PATH`."""
    if set(values) == {"config"}:
        return load_serve_config(str(values["config"]))
    return check_as(ServeConfig, values, "args of the serve application")
