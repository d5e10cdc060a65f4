"""The models that answer: loaded and checked beside the one that works, then put in its place between two requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from raypose.config.serve_schema import CanaryConfig, ComputeConfig
from raypose.errors import CheckpointError, DataError, RayposeError, StorageError
from raypose.serve.loading import Located, Model, Opener, Which, load, locate

Role = Literal["stable", "canary"]
_KEPT = 2
"""Models that were replaced and stay in memory, so that going back to them takes no time."""
_MAY_PASS = (StorageError, OSError, DataError)
"""What storage, a disk or the set of `drift` did while a model was loaded: it says nothing about the model."""
_TOLD = 20
"""Refusals that are told; the oldest go."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which models a service is to answer with. What `user_config` of Ray Serve may change while it runs."""

    model: str
    which: Which = "best"
    follow_s: float | None = None
    canary: CanaryConfig | None = None


@dataclass(frozen=True, slots=True)
class Shelf:
    """Who answers now. Replaced as a whole, so that a request sees the one or the other."""

    stable: Model
    canary: Model | None = None
    share: float = 0.0

    def pick(self, number: int) -> tuple[Role, Model]:
        """The model for the request of this number: of n in a row, the canary gets n times its share, rounded."""
        if self.canary is None or int((number + 1) * self.share) == int(number * self.share):
            return "stable", self.stable
        return "canary", self.canary

    def named(self, role_or_version: str) -> tuple[Role, Model] | None:
        """The model of a role or a version, if it is here."""
        for role, model in self.all():
            if role_or_version in (role, model.version):
                return role, model
        return None

    def all(self) -> list[tuple[Role, Model]]:
        both: list[tuple[Role, Model]] = [("stable", self.stable)]
        return both if self.canary is None else [*both, ("canary", self.canary)]


class Library:
    """Loads models and decides which of them answer. `shelf` may be read from any thread; changes wait for each other.

    A model that cannot be loaded, or is another kind than what is served, changes nothing, whatever a runtime throws at
    it: it is told in `refusals`.
    """

    def __init__(
        self,
        compute: ComputeConfig,
        opener: Opener = load,
        locate: Callable[[str, Which], Located] = locate,
    ) -> None:
        self.shelf: Shelf | None = None
        self.refusals: OrderedDict[str, str] = OrderedDict()
        self.wanted: Wanted | None = None
        self._compute = compute
        self._open = opener
        self._locate = locate
        self._retired: OrderedDict[Located, Model] = OrderedDict()
        self._unfit: tuple[Located, str] | None = None
        self._changing = threading.Lock()

    def change(self, wanted: Wanted) -> bool:
        """Serve what is wanted from now on. True once it does; raises only where nothing has served before."""
        with self._changing:
            asked = wanted.model
            try:
                stable = self._get(self._locate(asked, wanted.which))
                shelf = Shelf(stable)
                if wanted.canary is not None:
                    asked = wanted.canary.model
                    canary = self._get(self._locate(asked, "best"), like=stable)
                    shelf = Shelf(stable, canary, wanted.canary.share)
            except Exception as error:
                if self.shelf is None:
                    raise
                self._refuse(asked, error)
                return False
            self._show(shelf)
            self.wanted = wanted
            self.refusals.clear()
            return True

    def follow(self) -> bool:
        """Serve the run's best checkpoint where that is another one by now; True if so.

        One that is found unfit, or too large for the memory, is tried once. Storage or a disk that fails says nothing
        about it: the next look tries it again.
        """
        with self._changing:
            wanted, shelf = self.wanted, self.shelf
            if wanted is None or shelf is None:
                return False
            try:
                located = self._locate(wanted.model, wanted.which)
                if self._unfit is not None and self._unfit[0] == located:
                    raise CheckpointError(self._unfit[1])
                newer = self._get(located)
            except Exception as error:
                self._refuse(wanted.model, error)
                return False
            for place in (wanted.model, located.place):
                self.refusals.pop(place, None)
            if newer is shelf.stable:
                return False
            self._show(replace(shelf, stable=newer))
            return True

    def refuse(self, what: str, error: Exception) -> bool:
        """Tell of a change that was asked for in words that mean nothing. False, as nothing changes."""
        with self._changing:
            self._refuse(what, error)
        return False

    def to_dict(self) -> dict[str, Any]:
        """For `/v1/models`. Over copies, as a change may be under way in another thread."""
        shelf = self.shelf
        return {
            "models": [] if shelf is None else [_described(role, model, shelf.share) for role, model in shelf.all()],
            "previous": [model.version for model in reversed(list(self._retired.values()))],
            "refused": [{"model": place, "reason": reason} for place, reason in list(self.refusals.items())],
        }

    def _get(self, located: Located, like: Model | None = None) -> Model:
        """Of those in memory, or loaded; of the kind of `like` or of what is served."""
        here = [model for _, model in self.shelf.all()] if self.shelf else []
        known = next((model for model in (*here, *self._retired.values()) if model.located == located), None)
        try:
            model = known or self._loaded(located)
            like = like or (here[0] if here else None)
            if like is not None:
                require_same_kind(model, like)
        except _MAY_PASS:
            raise
        except Exception as error:
            self._unfit = located, _told(error)
            self._refuse(located.place, error)
            raise
        return model

    def _loaded(self, located: Located) -> Model:
        try:
            return self._open(located, self._compute)
        except (MemoryError, torch.OutOfMemoryError):
            if not self._retired:
                raise
        self._retired.clear()  # they are kept for speed alone, and may take the room that is missing
        return self._open(located, self._compute)

    def _refuse(self, place: str, error: Exception) -> None:
        self.refusals[place] = _told(error)
        while len(self.refusals) > _TOLD:
            self.refusals.popitem(last=False)

    def _show(self, shelf: Shelf) -> None:
        before = [model for _, model in self.shelf.all()] if self.shelf else []
        self.shelf = shelf
        now = [model for _, model in shelf.all()]
        for model in now:
            self._retired.pop(model.located, None)
        for model in before:
            if model not in now:
                self._retired[model.located] = model
        while len(self._retired) > _KEPT:
            self._retired.popitem(last=False)


def require_same_kind(model: Model, served: Model) -> None:
    """Clients count on the keypoints and classes that they have seen so far."""
    difference = served.spec.skeleton.difference(model.spec.skeleton)
    if not difference and model.spec.class_names != served.spec.class_names:
        difference = f"classes {', '.join(model.spec.class_names)} instead of {', '.join(served.spec.class_names)}"
    if difference:
        raise CheckpointError(
            f"{model.located.place}: {difference}; a service keeps its skeleton: start another one for it"
        )


def _told(error: Exception) -> str:
    """In one line; what raypose raises names itself."""
    line = str(error).partition("\n")[0]
    return line if isinstance(error, RayposeError) else f"{type(error).__name__}: {line}"


def _described(role: Role, model: Model, share: float) -> dict[str, Any]:
    return {
        "role": role,
        "version": model.version,
        "place": model.located.place,
        "architecture": model.spec.architecture,
        "imgsz": model.imgsz,
        "compute": model.compute,
        "share": share if role == "canary" else 1.0 - share,
    }
