"""The search space as pure functions: values drawn, their corners, and small changes to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any

from raypose.tune.schema import Domain, Parameters

Space = Mapping[str, Domain]
Choose = Callable[[str, Domain], Any]

MOST_LISTED = 1000
"""Whole numbers of a range that are all checked; of a longer one, its ends."""
_DIGITS = 6


def draw(space: Space, choose: Choose) -> dict[str, Any]:
    """A value for each key that applies, in the order of the space; `choose` gives them."""
    drawn: dict[str, Any] = {}
    for key in (*unconditional(space), *conditional(space)):
        if applies(space[key], drawn):
            drawn[key] = choose(key, space[key])
    return {key: drawn[key] for key in space if key in drawn}


def random_draw(space: Space, random: Random) -> dict[str, Any]:
    """Every value as likely as its domain says."""
    return draw(space, lambda key, domain: random_value(domain, random))


def random_value(domain: Domain, random: Random) -> Any:
    if domain.choice is not None:
        return random.choice(domain.choice)
    if domain.randint is not None:
        return random.choice(domain.whole_numbers)
    low, high = domain.bounds
    if domain.loguniform is not None:
        return rounded(domain, math.exp(random.uniform(math.log(low), math.log(high))))
    return rounded(domain, random.uniform(low, high))


def rounded(domain: Domain, value: float) -> float:
    """A number of few digits, so that files that name it are exact, inside the bounds."""
    low, high = domain.bounds
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)


def share_of(domain: Domain, value: float) -> float:
    """Where a number lies between the bounds of its domain: 0 to 1."""
    low, high = domain.bounds
    if domain.loguniform is not None:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def at_share(domain: Domain, share: float) -> float:
    """Inverse of `share_of`, as near as the domain has a value; beyond a bound, the bound."""
    low, high = domain.bounds
    share = min(max(share, 0.0), 1.0)
    if domain.loguniform is not None:
        return rounded(domain, low * (high / low) ** share)
    value = low + share * (high - low)
    return _nearest_whole(domain, value) if domain.randint is not None else rounded(domain, value)


def _nearest_whole(domain: Domain, value: float) -> int:
    numbers = domain.whole_numbers
    return numbers[min(max(round((value - numbers[0]) / numbers.step), 0), len(numbers) - 1)]


def applies(domain: Domain, drawn: Parameters) -> bool:
    """Whether the condition of a domain holds."""
    return all(
        key in drawn and drawn[key] in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in domain.when.items()
    )


def unconditional(space: Space) -> list[str]:
    return [key for key, domain in space.items() if not domain.when]


def numeric(space: Space) -> list[str]:
    """Keys of numbers that always apply."""
    return [key for key in unconditional(space) if space[key].choice is None]


def conditional(space: Space) -> list[str]:
    return [key for key, domain in space.items() if domain.when]


def corners(domain: Domain) -> Sequence[Any]:
    """The values that decide whether all values are sound: of a choice all of them, of numbers the ends."""
    if domain.choice is not None:
        return domain.choice
    if domain.randint is not None:
        numbers = domain.whole_numbers
        return numbers if len(numbers) <= MOST_LISTED else (numbers[0], numbers[-1])
    return domain.bounds


def corner_draws(space: Space, most: int) -> list[dict[str, Any]]:
    """Draws that have every corner of every key, and every combination of them where there are `most` or fewer."""
    keys = list(space)
    if math.prod(len(corners(domain)) for domain in space.values()) <= most:
        combined = product(*(corners(domain) for domain in space.values()))
        draws = [_only_what_applies(space, dict(zip(keys, values, strict=True))) for values in combined]
    else:
        draws = [
            draw(space, lambda key, domain, turn=turn: corners(domain)[turn % len(corners(domain))])  # type: ignore[misc]
            for turn in range(max(len(corners(domain)) for domain in space.values()))
        ]
        draws += [_forced(space, key, value) for key in keys for value in corners(space[key])]
    return list({repr(one): one for one in draws}.values())


def _only_what_applies(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    return draw(space, lambda key, domain: values[key])


def _forced(space: Space, key: str, value: Any) -> dict[str, Any]:
    """The first corner of everything, but `value` for `key` and for its conditions what they ask for."""
    wanted: dict[str, Any] = {key: value}
    for other, condition in space[key].when.items():
        wanted[other] = condition[0] if isinstance(condition, list) else condition
    return draw(space, lambda name, domain: wanted.get(name, corners(domain)[0]))


def changed(
    space: Space, parameters: Parameters, random: Random, *, resample: float, factors: tuple[float, float]
) -> dict[str, Any]:
    """Parameters a little away from these: numbers times one of the factors, choices one place further.

    A share `resample` of them is drawn anew, and so is what did not apply before.
    """

    def choose(key: str, domain: Domain) -> Any:
        if key not in parameters or random.random() < resample:
            return random_value(domain, random)
        return _neighbour(domain, parameters[key], random, factors)

    return draw(space, choose)


def _neighbour(domain: Domain, value: Any, random: Random, factors: tuple[float, float]) -> Any:
    if domain.choice is not None:
        place = domain.choice.index(value) + random.choice((-1, 1))
        return domain.choice[min(max(place, 0), len(domain.choice) - 1)]
    scaled = value * random.choice(factors)
    if domain.randint is not None:
        return _nearest_whole(domain, scaled)
    return rounded(domain, scaled)
