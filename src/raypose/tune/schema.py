"""A sweep file: what is varied, what is measured, how trials are chosen and when they end. Nothing here imports Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raypose.config.schema import Place, absolute_place

Parameters = Mapping[str, Any]
"""Settings of a trial by their dotted keys, such as `train.lr0`."""

PLACES = ("data.train", "data.val", "model.pretrained")
"""Settings of a run that name places, and may be varied."""

Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


_KINDS = ("uniform", "loguniform", "randint", "choice")


class Domain(_Section):
    """The values of one key: exactly one of `uniform`, `loguniform`, `randint` and `choice`."""

    uniform: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """Numbers between two bounds, both included."""
    loguniform: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """The same, each power of ten as likely as the next."""
    randint: Annotated[tuple[int, int], Field(strict=False)] | None = None
    """Whole numbers between two bounds, both included."""
    step: Annotated[int, Field(ge=1)] | None = None
    """Of `randint`: only every so many."""
    choice: Annotated[tuple[Any, ...], Field(strict=False)] | None = None
    """One of a list."""
    when: dict[str, Any] = {}
    """Only where another key of the space has this value, or one of these: `{train.optimizer: [SGD, MuSGD]}`."""

    @property
    def kind(self) -> str:
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of a domain of numbers."""
        low, high = getattr(self, self.kind)
        return low, high

    @property
    def whole_numbers(self) -> range:
        """The values of a `randint`."""
        low, high = self.bounds
        return range(int(low), int(high) + 1, self.step or 1)

    @model_validator(mode="after")
    def _check(self) -> Domain:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give one of uniform, loguniform, randint and choice, found {found}")
        if self.step is not None and given != ["randint"]:
            raise ValueError(f"step goes with randint, not with {given[0]}")
        if self.choice is not None:
            _check_choices(self.choice)
        else:
            _check_bounds(self.kind, *self.bounds)
        return self


def _check_choices(choices: tuple[Any, ...]) -> None:
    if len(choices) < 2:
        raise ValueError(f"a choice of {len(choices)} leaves nothing to search; give two values or more")
    for place, value in enumerate(choices):
        if value in choices[:place]:
            raise ValueError(f"{value!r} is given twice; keep one")


def _check_bounds(kind: str, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"the range from {low:g} to {high:g} is empty; give [lower, higher]")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"loguniform needs bounds above 0, found {low:g}")


class SearcherConfig(_Section):
    use: Literal["random", "tpe", "bohb", "nsga2"] = "random"
    """`tpe`: Optuna's tree-structured Parzen estimator, which learns from the trials before. `bohb`: the same for all
    keys together, from the highest rung that enough trials have come to. Both need `raypose[tune]`. `nsga2`: the
    children of good trials."""
    startup_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials drawn at random before there is something to learn from; by default 10, of `bohb` two more than there are
    keys. Those of `warm_start` count."""

    @model_validator(mode="after")
    def _check(self) -> SearcherConfig:
        if self.use == "random" and self.startup_trials is not None:
            raise ValueError("startup_trials goes with tpe, bohb and nsga2, not with random")
        return self


_OPTIONS = {
    "none": (),
    "asha": ("min_epochs", "reduction"),
    "hyperband": ("min_epochs", "reduction"),
    "median": ("min_epochs", "min_trials"),
    "pbt": ("every_epochs", "quantile", "resample", "factors"),
    "pb2": ("every_epochs", "quantile"),
}


class SchedulerConfig(_Section):
    use: Literal["none", "asha", "hyperband", "median", "pbt", "pb2"] = "none"
    """`asha`: at growing numbers of epochs only the best share goes on. `hyperband`: the same in brackets, some of
    which begin to choose late. `median`: a trial ends that is worse than the median of the others. `pbt`: the worst go
    on from the weights of the best, with settings changed a little. `pb2`: the same, settings chosen by a model of what
    they did so far."""
    min_epochs: Annotated[int, Field(ge=1)] | None = None
    """Of `asha`, `hyperband` and `median`: no trial ends before; by default 1."""
    reduction: Annotated[float, Field(gt=1.0)] | None = None
    """Of `asha` and `hyperband`: one in so many goes on from each rung, and rungs lie this factor apart; by default 3.
    """
    min_trials: Annotated[int, Field(ge=1)] | None = None
    """Of `median`: how many others must have come as far; by default 3."""
    every_epochs: Annotated[int, Field(ge=1)] | None = None
    """Of `pbt` and `pb2`: epochs of a generation; by default 1."""
    quantile: Annotated[float, Field(gt=0.0, le=0.5)] | None = None
    """Of `pbt` and `pb2`: share of the population that is replaced after each generation; by default 0.25."""
    resample: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Of `pbt`: how often a setting is drawn anew rather than changed a little; by default 0.25."""
    factors: Annotated[tuple[Positive, Positive], Field(strict=False)] | None = None
    """Of `pbt`: what a number is multiplied by, one or the other; by default 0.8 and 1.25."""

    @model_validator(mode="after")
    def _check(self) -> SchedulerConfig:
        own = _OPTIONS[self.use]
        for name in self.model_fields_set - {"use", *own}:
            raise ValueError(f"{name} is no setting of {self.use!r}, which has {', '.join(own) or 'none'}")
        return self


class BudgetConfig(_Section):
    trials: Annotated[int, Field(ge=1)]
    """Trials of the sweep; of `pbt` and `pb2`, members of the population."""
    hours: Positive | None = None
    """Of the sweep, interruptions not counted. What still runs then saves its state and ends."""
    gpu_hours: Positive | None = None
    """Of all trials together."""


class SweepConfig(_Section):
    """A whole sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The sweep's folder below `storage`."""
    storage: Place = "runs"
    """Folder, or place in object storage, that receives the sweep and its trials."""
    base: str
    """The run that is varied: a YAML file, found from the folder of the sweep file."""
    overrides: dict[str, Any] = {}
    """Settings that replace those of `base`, by their dotted keys."""
    space: dict[str, Domain] = Field(min_length=1)
    """What is varied, by dotted keys such as `train.lr0`."""
    metric: str | None = None
    """What validation measures that decides; by default `checkpoint.best_metric` of `base`."""
    mode: Literal["max", "min"] = "max"
    """Whether more of it is better or less."""
    against: dict[str, Literal["max", "min"]] = {}
    """Further metrics to be good at besides, each with its mode: `{latency_ms: min}`. The sweep then has no best trial
    but a front of trials that no other is better than in everything."""
    searcher: SearcherConfig = SearcherConfig()
    warm_start: Annotated[tuple[Place, ...], Field(strict=False)] = ()
    """Folders or URLs of earlier sweeps, whose trials the searcher learns from as if they were its own."""
    scheduler: SchedulerConfig = SchedulerConfig()
    budget: BudgetConfig
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Trials at a time. `auto`: as many as the cluster has room for."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a trial that failed is continued from its last checkpoint before it counts as failed."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of all that is drawn."""

    @model_validator(mode="after")
    def _check_conditions(self) -> SweepConfig:
        for key, domain in self.space.items():
            for other in domain.when:
                _check_condition(self.space, key, other)
        return self

    @model_validator(mode="after")
    def _check_population(self) -> SweepConfig:
        if not self.is_population:
            return self
        if self.searcher.use != "random":
            raise ValueError(f"searcher: {self.scheduler.use} draws its population at random; leave searcher out")
        if self.budget.trials < 2:
            raise ValueError(
                f"budget.trials: a population of {self.budget.trials} has nobody to learn from; use 4 or more"
            )
        return self

    @model_validator(mode="after")
    def _check_searcher(self) -> SweepConfig:
        searcher, scheduler = self.searcher.use, self.scheduler.use
        if searcher == "bohb" and scheduler not in ("asha", "hyperband"):
            raise ValueError(f"searcher: bohb learns from rungs, and scheduler {scheduler} has none; use hyperband")
        if self.warm_start and searcher == "random":
            raise ValueError("warm_start: random search learns from nothing; use the searcher tpe, bohb or nsga2")
        return self

    @model_validator(mode="after")
    def _check_objectives(self) -> SweepConfig:
        if self.against and self.scheduler.use != "none":
            raise ValueError(
                f"against: {self.scheduler.use} would end trials by metric alone, good ones of the other metrics too;"
                " leave scheduler out"
            )
        if self.metric in self.against:
            raise ValueError(f"against: {self.metric} is the metric already; name others")
        return self

    def located(self, folder: Path) -> SweepConfig:
        """The same with local places of the space made absolute, as `RunConfig.located` makes those of the base."""

        def absolute(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(absolute(one) for one in value)
            return absolute_place(value, folder) if isinstance(value, str) else value

        def at_places(key: str, domain: Domain) -> Domain:
            update: dict[str, Any] = {}
            if key in PLACES:
                update["choice"] = absolute(domain.choice)
            if domain.when.keys() & set(PLACES):
                update["when"] = {key: absolute(one) if key in PLACES else one for key, one in domain.when.items()}
            return domain.model_copy(update=update)

        return self.model_copy(update={"space": {key: at_places(key, domain) for key, domain in self.space.items()}})

    @property
    def is_population(self) -> bool:
        return self.scheduler.use in ("pbt", "pb2")

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is the better value of the metric; what is not a number is worse than all numbers."""
        if math.isnan(one) or math.isnan(other):
            return math.isnan(other) and not math.isnan(one)
        return one > other if self.mode == "max" else one < other

    @property
    def modes(self) -> tuple[Literal["max", "min"], ...]:
        """Of the metric and of those `against` it."""
        return (self.mode, *self.against.values())


def _check_condition(space: Mapping[str, Domain], key: str, other: str) -> None:
    if other not in space:
        raise ValueError(f"space.{key}: when: {other} is not in the space; known here: {', '.join(space)}")
    domain = space[other]
    if domain.when:
        raise ValueError(f"space.{key}: when: {other} has a condition of its own; conditions go one level deep")
    if domain.choice is None:
        raise ValueError(f"space.{key}: when: {other} is no choice; conditions go by values of a choice")
    wanted = space[key].when[other]
    for value in wanted if isinstance(wanted, list) else [wanted]:
        if value not in domain.choice:
            raise ValueError(f"space.{key}: when: {other} is never {value!r}; it is one of {list(domain.choice)}")
