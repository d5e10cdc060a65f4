"""What the requests of /v1 have in common: thresholds in the query, and errors in the description."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from raypose.config.serve_schema import DefaultsConfig
from raypose.inference import Selection
from raypose.serve.problem import CODES

Share = Annotated[float | None, Query(ge=0.0, le=1.0, allow_inf_nan=False)]
MostPeople = Annotated[int | None, Query(ge=1, le=1000)]
WantedModel = Annotated[str | None, Query(max_length=200)]

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string", "enum": sorted(CODES)}, "message": {"type": "string"}},
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": ", ".join(code for code in CODES if CODES[code] == status),
             "content": {"application/json": {"schema": _ERROR}}}
    for status in sorted(set(CODES.values()))
} | {"default": {"description": "What a proxy in front of the service says, in words of its own"}}  # fmt: skip


def selection_of(
    defaults: DefaultsConfig, conf: float | None = None, iou: float | None = None, max_det: int | None = None
) -> Selection:
    """What a request asks for, and the defaults for the rest."""
    return Selection(
        defaults.conf if conf is None else conf,
        defaults.iou if iou is None else iou,
        defaults.max_det if max_det is None else max_det,
    )
