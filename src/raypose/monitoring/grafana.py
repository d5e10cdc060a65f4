"""A few types that Grafana's dashboards are made of; `to_json` is the only place that knows their format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Unit = Literal["short", "s", "bytes", "percentunit", "reqps", "cps", "none"]

_COLUMNS = 24
_HEIGHT = 8
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """An expression of PromQL, and what its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Queries over time, or as a number each."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    description: str = ""
    columns: int = 8
    minimum: float | None = 0
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels below a heading, side by side as far as they fit."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A label whose values are offered for choice; in expressions, `$name`."""

    name: str
    metric: str
    is_multiple: bool = False


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of Grafana. `uid` stays as it is, so that links do."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())

    def panels(self) -> Iterator[Panel]:
        """All of them, in order."""
        for row in self.rows:
            yield from row.panels

    def to_json(self) -> dict[str, Any]:
        """As Grafana imports it (schema 39, Grafana 10 and later)."""
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["raypose"],
            "schemaVersion": 39,
            "editable": True,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": [_DATASOURCE_VARIABLE, *(_variable(one) for one in self.variables)]},
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterator[dict[str, Any]]:
        number, top = 1, 0
        for row in self.rows:
            place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
            yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
            number, top, left = number + 1, top + 1, 0
            for panel in row.panels:
                if left + panel.columns > _COLUMNS:
                    top, left = top + _HEIGHT, 0
                place = {"x": left, "y": top, "w": panel.columns, "h": _HEIGHT}
                yield {"id": number, "gridPos": place, **_panel(panel)}
                number, left = number + 1, left + panel.columns
            top += _HEIGHT


_DATASOURCE_VARIABLE = {
    "name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source", "hide": 0,
}  # fmt: skip


def _variable(variable: Variable) -> dict[str, Any]:
    query = f"label_values({variable.metric}, {variable.name})"
    return {
        "name": variable.name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": variable.is_multiple,
        "includeAll": variable.is_multiple,
        # What the page opens with: the first value, or all of them.
        "current": {"text": "All", "value": "$__all"} if variable.is_multiple else {},
    }


def _panel(panel: Panel) -> dict[str, Any]:
    limits = {name: at for name, at in (("min", panel.minimum), ("max", panel.maximum)) if at is not None}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, **limits}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "instant": panel.kind == "stat",
            }
            for index, query in enumerate(panel.queries)
        ],
    }
