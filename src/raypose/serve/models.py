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
        self._unfit: dict[Located, str] = {}
        self._changing = threading.Lock()

    @property
    def lacks_canary(self) -> bool:
        """Whether a canary is wanted that has not been loaded yet; `follow` looks for it."""
        wanted, shelf = self.wanted, self.shelf
        return wanted is not None and wanted.canary is not None and shelf is not None and shelf.canary is None

    def change(self, wanted: Wanted) -> bool:
        """Serve what is wanted from now on. True once it does; raises only where nothing has served before.

        One that begins serves without a canary that cannot be loaded, tells of it, and has `follow` try again: a
        replica that takes the place of another must not fail of a model on trial.
        """
        with self._changing:
            begins, asked = self.shelf is None, wanted.model
            try:
                shelf = Shelf(self._get(self._locate(asked, wanted.which)))
                if wanted.canary is not None and not begins:
                    asked = wanted.canary.model
                    canary = self._get(self._locate(asked, "best"), like=shelf.stable)
                    shelf = Shelf(shelf.stable, canary, wanted.canary.share)
            except Exception as error:
                if begins:
                    raise
                self._refuse(asked, error)
                return False
            self._show(shelf)
            self.wanted = wanted
            self.refusals.clear()
            if begins:
                self._take_canary(wanted, shelf)
            return True

    def follow(self) -> bool:
        """Serve the run's best checkpoint where that is followed, and a canary that was missing; True for a change.

        What is found unfit, or too large for the memory, is tried once. Storage or a disk that fails says nothing about
        it: the next look tries it again.
        """
        with self._changing:
            wanted, before = self.wanted, self.shelf
            if wanted is None or before is None:
                return False
            shelf = before
            if wanted.follow_s is not None:
                newer = self._newest(wanted.model, wanted.which)
                if newer is not None and newer is not before.stable:
                    shelf = replace(before, stable=newer)
                    self._show(shelf)
            return self._take_canary(wanted, shelf) or shelf is not before

    def _take_canary(self, wanted: Wanted, shelf: Shelf) -> bool:
        """Have the canary answer, too, that is wanted and not here yet. True once it does."""
        if wanted.canary is None or shelf.canary is not None:
            return False
        canary = self._newest(wanted.canary.model, "best")
        if canary is None:
            return False
        self._show(Shelf(shelf.stable, canary, wanted.canary.share))
        return True

    def _newest(self, asked: str, which: Which) -> Model | None:
        """What `asked` names by now; None, and a refusal that says why, where that cannot serve."""
        try:
            located = self._locate(asked, which)
            if located in self._unfit:
                raise CheckpointError(self._unfit[located])
            model = self._get(located)
        except Exception as error:
            self._refuse(asked, error)
            return None
        for place in (asked, located.place):
            self.refusals.pop(place, None)
        return model

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
            self._unfit[located] = _told(error)
            self._refuse(located.place, error)
            raise
        self._unfit.pop(located, None)  # a change tries also what was found unfit before
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
