"""The HTTP interface of a replica: /v1 for people and pages, /v2 for clients of the Open Inference Protocol."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from raypose.errors import ConfigError
from raypose.model import tracked_conf
from raypose.serve.answers import Picture, answer_json, picture, skeleton_dict
from raypose.serve.bodies import read_body
from raypose.serve.docs import add_docs
from raypose.serve.gate import Gate, Keys, describe_keys, problem_response
from raypose.serve.open_inference import open_inference_routes
from raypose.serve.page import add_page
from raypose.serve.parameters import ERRORS, MostPeople, Share, WantedModel, selection_of
from raypose.serve.problem import Problem
from raypose.serve.service import Predicted, Service
from raypose.serve.stream import Asked, UploadedVideo, VideoAnswer
from raypose.serve.uploads import Upload, uploads_of

_BODY = {
    "required": True,
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream")
    }
    | {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "byte"}}
                },
            }
        },
    },
}


_VIDEO = {
    "required": True,
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("video/mp4", "video/webm", "application/octet-stream")
    }
    | {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"video": {"type": "string", "format": "binary"}}}
        }
    },
}
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Lines of JSON", "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}


def create_app(service: Service) -> FastAPI:
    """The application over a service that is there already, and ends with it."""
    config = service.config

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.drained()
        service.close()

    app = FastAPI(
        title="raypose",
        version=version("raypose"),
        description="People and their keypoints in images. Coordinates are pixels of the image as it is looked at:"
        " its EXIF orientation is honoured.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_predict(app, service)
    _add_stream(app, service)
    _add_state(app, service)
    app.include_router(open_inference_routes(service))
    add_docs(app)
    if config.access.page:
        add_page(app)
    if config.access.api_keys:
        describe_keys(app)
    app.add_middleware(Gate, keys=Keys(config.access.api_keys), record=service.metrics.request, log=config.access.log)
    if config.access.cors_origins:  # around the gate: a page of such an origin may read why it was refused, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.access.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        request.scope["state"]["code"] = error.code
        return problem_response(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return await problem(request, Problem("bad_parameter", f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_body")
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return await problem(request, Problem(code, message, headers=error.headers))


def _add_predict(app: FastAPI, service: Service) -> None:
    defaults = service.config.defaults

    @app.post("/v1/predict", responses=ERRORS, openapi_extra={"requestBody": _BODY}, response_class=Response)
    async def predict(
        request: Request,
        conf: Share = None,
        iou: Share = None,
        max_det: MostPeople = None,
        keypoint_conf: Share = None,
        render: Picture | None = None,
        model: WantedModel = None,
    ) -> Response:
        """People in one or several images: their bytes, a form with files, or JSON with base64.

        `model` is `stable`, `canary` or a version; by default they take turns by their shares. With `render` the answer
        is the image with the skeletons drawn on it.
        """
        started_s = time.perf_counter()
        selection = selection_of(defaults, conf, iou, max_det)
        uploads = await _uploads(request, service)
        request.state.images = len(uploads)
        if render is not None and len(uploads) > 1:
            raise Problem("bad_parameter", f"render: one image at a time, found {len(uploads)}")
        with service.admitted(len(uploads)):
            predicted = await service.predict(uploads, selection, service.model(model), keep_pixels=render is not None)
            _raise_if_all_failed(predicted)
            request.state.version = predicted.model.version
            headers = {"X-Model-Version": predicted.model.version}
            if render is not None:  # it keeps its pixels until then, so it counts in the queue
                return await _rendered(service, predicted, render, keypoint_conf, headers)
        least = defaults.keypoint_conf if keypoint_conf is None else keypoint_conf
        total_s = time.perf_counter() - started_s
        body = answer_json(predicted, service.config.name, keypoint_conf=least, total_s=total_s)
        return Response(body, headers=headers, media_type="application/json")


def _add_stream(app: FastAPI, service: Service) -> None:
    defaults, limits = service.config.defaults, service.config.limits

    @app.post(
        "/v1/predict/stream", responses=ERRORS | _LINES, openapi_extra={"requestBody": _VIDEO}, response_class=Response
    )
    async def predict_stream(
        request: Request,
        conf: Share = None,
        iou: Share = None,
        max_det: MostPeople = None,
        keypoint_conf: Share = None,
        track: bool = False,
        model: WantedModel = None,
    ) -> Response:
        """People in a video, a line of JSON for each frame as it is done.

        The body is the bytes of the video, or a form with it. The first line describes the video, the last one has its
        `end`, or the `error` that broke it off. With `track` people have an `id` that they keep from frame to frame.
        """
        wanted = selection_of(defaults, conf, iou, max_det)
        try:
            selection = replace(wanted, conf=tracked_conf(wanted.conf)) if track else wanted
        except ConfigError as error:
            raise Problem("bad_parameter", str(error)) from error
        asked = Asked(
            selection=selection,
            keypoint_conf=defaults.keypoint_conf if keypoint_conf is None else keypoint_conf,
            answering=service.model(model),
            track=track,
            conf=wanted.conf,
        )
        (upload, *others) = await _uploads(request, service)
        if others:
            raise Problem("bad_parameter", f"one video at a time, found {1 + len(others)}")
        video = await service.in_pool(lambda: UploadedVideo(upload, limits.image_pixels))
        try:
            return VideoAnswer(service, video, asked)
        except Problem:
            video.close()
            raise


async def _rendered(
    service: Service, predicted: Predicted, kind: Picture, keypoint_conf: float | None, headers: dict[str, str]
) -> Response:
    (image,) = predicted.images
    assert not isinstance(image, Problem)  # all failed otherwise
    skeleton = predicted.model.spec.skeleton
    content = await service.in_pool(lambda: picture(image, skeleton, kind, keypoint_conf))
    return Response(content, headers=headers, media_type=f"image/{kind}")


def _raise_if_all_failed(predicted: Predicted) -> None:
    first = predicted.images[0]
    if isinstance(first, Problem) and all(isinstance(image, Problem) for image in predicted.images):
        raise first


async def _uploads(request: Request, service: Service) -> list[Upload]:
    body = await read_body(request, service)
    kind = request.headers.get("content-type", "")
    limits = service.config.limits
    if kind.startswith("application/json"):
        return await service.in_pool(lambda: uploads_of(body, kind, limits))
    return uploads_of(body, kind, limits)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: ERRORS[503]})
    async def readyz() -> dict[str, str]:
        """A model is loaded and requests are taken."""
        service.require_ready()
        return {"status": "ready", "version": service.model("stable")[1].version}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that answer, those before them, and those that were refused and why."""
        shelf = service.library.shelf
        skeleton = None if shelf is None else skeleton_dict(shelf.stable.spec.skeleton)
        classes = [] if shelf is None else list(shelf.stable.spec.class_names)
        described = service.library.to_dict()
        return {"name": service.config.name, **described, "skeleton": skeleton, "classes": classes}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
