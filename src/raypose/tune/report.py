"""A sweep as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from raypose.pages import render_page
from raypose.pages.charts import Bars, Line, bar_chart, line_chart
from raypose.pages.relations import Axis, Points, parallel_chart, scatter_chart
from raypose.tune.checks import Sweep
from raypose.tune.importance import importances
from raypose.tune.records import SweepState, Trial
from raypose.tune.results import best_first, front_of, score, values_of
from raypose.tune.schema import Domain
from raypose.tune.table import in_words, short_value

REPORT_KEY = "report.html"

Chart = tuple[str, Markup]

_TONES = {"finished": 1, "stopped": 2, "failed": 5}
_MOST_CURVES = 60


def render_sweep(sweep: Sweep, state: SweepState, trials: Sequence[Trial], url: str) -> str:
    """The page as text."""
    ranked = best_first(sweep.config, trials)
    shares = importances(
        sweep.config.space, [one.current_parameters for one in ranked], [score(sweep.config, one) for one in ranked]
    )
    return render_page(
        "raypose.tune",
        "sweep.html.j2",
        eyebrow="raypose tune",
        title=sweep.config.name,
        subtitle=url,
        facts=_facts(sweep, state, trials),
        filters={"short": short_value, "words": in_words, "minutes": lambda seconds: f"{seconds / 60:.1f}"},
        metric=sweep.metric,
        metrics=sweep.metrics,
        front=front_of(sweep.config, trials) if sweep.config.against else [],
        trades=_trades(sweep, ranked) if ranked else [],
        keys=list(sweep.config.space),
        best=ranked[0] if ranked else None,
        rows=[(trial, values_of(sweep.config, trial)) for trial in [*ranked, *(t for t in trials if t not in ranked)]],
        overview=_overview(sweep, trials, ranked) if ranked else [],
        parallel=_parallel(sweep, ranked) if len(ranked) > 1 else None,
        importance=_importance(shares) if shares else None,
        slices=_slices(sweep, ranked) if len(ranked) > 1 else [],
        lineage=_lineage(sweep, trials) if sweep.config.is_population and ranked else None,
        exploits=sorted(((one, trial) for trial in trials for one in trial.exploits), key=lambda pair: pair[0].epoch),
    )


def _facts(sweep: Sweep, state: SweepState, trials: Sequence[Trial]) -> dict[str, str]:
    statuses = [trial.status for trial in trials]
    return {
        "status": state.status,
        "trials": ", ".join(f"{statuses.count(one)} {one}" for one in dict.fromkeys(sorted(statuses))),
        "search": sweep.config.searcher.use,
        "scheduler": sweep.config.scheduler.use,
        "metric": " and ".join(
            f"{mode} of {name}" for mode, name in zip(sweep.config.modes, sweep.metrics, strict=True)
        ),
        "time": f"{state.seconds / 60:.1f} min in {state.sittings} sitting{'s' if state.sittings > 1 else ''}",
        "steps": f"{sum(trial.steps for trial in trials):,}",
        "steps done again": f"{sum(trial.steps_repeated for trial in trials):,}",
    }


def _overview(sweep: Sweep, trials: Sequence[Trial], ranked: Sequence[Trial]) -> list[Chart]:
    """History, learning curves, and cost against quality."""
    y_axis = _value_axis(sweep, ranked)
    last = max(1.0, float(max(trial.number for trial in trials)))
    history = scatter_chart(
        _by_status(sweep, ranked, [float(trial.number) for trial in ranked]),
        Axis("trial", 0.0, last, whole=True),
        y_axis,
        steps=_best_so_far(sweep, ranked, int(last)),
    )
    minutes = [trial.seconds / 60 for trial in ranked]
    cost = scatter_chart(_by_status(sweep, ranked, minutes), Axis("minutes", 0.0, max(*minutes, 0.1) * 1.05), y_axis)
    return [("History", history), ("Learning curves", _curves(sweep, ranked)), ("Cost against quality", cost)]


def _trades(sweep: Sweep, ranked: Sequence[Trial]) -> list[Chart]:
    """The metric over each of those against it, the front in colour."""
    chosen = front_of(sweep.config, ranked)
    charts = []
    for name in sweep.config.against:
        kinds = [("front", chosen, 1), ("others", [one for one in ranked if one not in chosen], 0)]
        values = [one.metrics[name] for one in ranked if name in one.metrics]
        if not values:
            continue
        points = [
            Points(
                kind,
                [one.metrics[name] for one in members if name in one.metrics],
                [score(sweep.config, one) for one in members if name in one.metrics],
                [_tip(sweep, one) for one in members if name in one.metrics],
                tone,
            )
            for kind, members, tone in kinds
        ]
        charts.append(
            (
                f"{sweep.metric} against {name}",
                scatter_chart(points, _axis_over(name, values), _value_axis(sweep, ranked)),
            )
        )
    return charts


def _curves(sweep: Sweep, ranked: Sequence[Trial]) -> Markup:
    """The best in colour, drawn last."""
    lines = [
        Line(
            f"trial {trial.name}" if place == 0 else "others",
            [float(one.epoch) for one in trial.measured],
            [one.value for one in trial.measured],
            tone=1 if place == 0 else 0,
        )
        for place, trial in enumerate(ranked[:_MOST_CURVES])
    ]
    return line_chart(lines[::-1], x_label="epoch", y_label=sweep.metric, whole_x=True, legend=False)


def _best_so_far(sweep: Sweep, ranked: Sequence[Trial], last: int) -> list[float]:
    by_number = {trial.number: score(sweep.config, trial) for trial in ranked}
    first = by_number[min(by_number)]
    best, steps = first, []
    for number in range(last + 1):
        value = by_number.get(number, math.nan)
        best = value if sweep.config.better(value, best) else best
        steps.append(best)
    return steps


def _by_status(sweep: Sweep, ranked: Sequence[Trial], x: Sequence[float]) -> list[Points]:
    groups = []
    for status in dict.fromkeys(sorted(trial.status for trial in ranked)):
        chosen = [(place, trial) for place, trial in enumerate(ranked) if trial.status == status]
        groups.append(
            Points(
                status,
                [x[place] for place, _ in chosen],
                [score(sweep.config, trial) for _, trial in chosen],
                [_tip(sweep, trial) for _, trial in chosen],
                _TONES.get(status, 3),
            )
        )
    return groups


def _tip(sweep: Sweep, trial: Trial) -> str:
    return f"trial {trial.name}: {score(sweep.config, trial):.4f}, {in_words(trial.current_parameters)}"


def _value_axis(sweep: Sweep, ranked: Sequence[Trial]) -> Axis:
    return _axis_over(sweep.metric, [score(sweep.config, trial) for trial in ranked])


def _axis_over(name: str, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    margin = (high - low or abs(high) or 1.0) * 0.06
    return Axis(name, low - margin, high + margin)


def _axis_of(key: str, domain: Domain) -> Axis:
    if domain.choice is not None:
        return Axis(key, 0.0, 1.0, names=tuple(short_value(value) for value in domain.choice))
    return Axis(key, *domain.bounds, log=domain.loguniform is not None, whole=domain.randint is not None)


def _place_of(domain: Domain, value: Any) -> float:
    """A value on its axis; NaN where it does not apply."""
    if value is None:
        return math.nan
    return float(domain.choice.index(value)) if domain.choice is not None else float(value)


def _parallel(sweep: Sweep, ranked: Sequence[Trial]) -> Markup:
    space = sweep.config.space
    axes = [*(_axis_of(key, domain) for key, domain in space.items()), _value_axis(sweep, ranked)]
    top = max(1, len(ranked) // 4)
    lines = [
        (
            [
                *(_place_of(domain, trial.current_parameters.get(key)) for key, domain in space.items()),
                score(sweep.config, trial),
            ],
            1 if place < top else 0,
            _tip(sweep, trial),
        )
        for place, trial in enumerate(ranked)
    ]
    return parallel_chart(axes, lines[::-1], label=f"Parameters of {len(ranked)} trials and their {sweep.metric}")


def _importance(shares: dict[str, float]) -> Markup:
    bars = [Bars("share", list(shares.values()))]
    return bar_chart(list(shares), bars, x_label="share of the differences explained", x_range=(0.0, 1.0))


def _slices(sweep: Sweep, ranked: Sequence[Trial]) -> list[Chart]:
    charts = []
    for key, domain in sweep.config.space.items():
        told = [trial for trial in ranked if key in trial.current_parameters]
        if told:
            x = [_place_of(domain, trial.current_parameters[key]) for trial in told]
            charts.append(
                (key, scatter_chart(_by_status(sweep, told, x), _axis_of(key, domain), _value_axis(sweep, ranked)))
            )
    return charts


def _lineage(sweep: Sweep, trials: Sequence[Trial]) -> Markup:
    """Every member's values as it lived them; what was given up for another's weights is grey and dashed."""
    lines = []
    for trial in trials:
        since = 0
        for exploit in trial.exploits:
            lived = [one for one in exploit.left if one.epoch >= since]
            lines.append(_branch("given up", lived, tone=0, dashed=True))
            since = exploit.epoch
        lived = [one for one in trial.measured if one.epoch >= since]
        lines.append(_branch(f"member {trial.name}", lived, tone=1 + trial.number % 5, dashed=False))
    return line_chart(lines, x_label="epoch", y_label=sweep.metric, whole_x=True, legend=False)


def _branch(name: str, lived: Sequence[Any], *, tone: int, dashed: bool) -> Line:
    return Line(name, [float(one.epoch) for one in lived], [one.value for one in lived], tone, dashed)
