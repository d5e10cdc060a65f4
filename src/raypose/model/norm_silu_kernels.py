"""BatchNorm and SiLU over bfloat16 numbers: loops that numba compiles for the CPU that they run on.

What they take and give is rows of bfloat16 bits, as unsigned integers: a row is the channels of one or more pixels,
`columns` numbers in all, and column j belongs to channel j % channels. Importing this takes half a second.

SiLU is computed by t = -z / ln 2: z * sigmoid(z) = t / (c + c * 2**t) with c = -1 / ln 2, and the normalisation gives t
where it would have given z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Loop = TypeVar("Loop", bound=Callable[..., Any])

_L1_NUMBERS = 16 * 1024
"""bfloat16 numbers that stay in a core's nearest cache while they are read twice."""
_ONE = np.float32(1)
_MINUS_LOG2_E = np.float32(-1.4426950408889634)
_MINUS_LN_2 = np.float32(-0.6931471805599453)
_ROUNDS = np.float32(1.5 * 2**23)
"""What is added to it has no room for a fraction, and its last bits are the integer."""
_MOST = np.float32(126)
_C1, _C2, _C3, _C4 = (np.float32(c) for c in (0.69314718, 0.24022651, 0.05550411, 0.00961813))
"""2**f = 1 + f ln 2 + (f ln 2)**2 / 2 + ..., to 4e-5 for |f| <= 1/2."""


def _compiled(loop: Loop) -> Loop:
    """Keeps the result on disk for the next process, where there is a folder for it. NaN and infinity stay what they
    are."""
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "nsz", "arcp"},
    }
    result: Loop
    try:
        result = numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # neither beside this file nor in the home directory
        result = numba.njit(**options)(loop)
    return result


def _inlined(expression: Loop) -> Loop:
    result: Loop = numba.njit(inline="always")(expression)
    return result


class _BFloat16(ir.Type):  # type: ignore[misc]  # llvmlite has no types, nor this one, which LLVM has
    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


@intrinsic  # type: ignore[untyped-decorator]
def _narrowed(_: Any, __: Any) -> Any:
    """The bits of the nearest bfloat16, by the instruction for that."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], _BFloat16()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits(_: Any, __: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _float(_: Any, __: Any) -> Any:
    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@_inlined
def _widened(bits: Any) -> Any:
    return _float(np.uint32(np.uint32(bits) << np.uint32(16)))


@_inlined
def _exp2(t: Any) -> Any:
    """Of NaN any number: what it is used with keeps the NaN."""
    held = min(max(t, -_MOST), _MOST)
    rounded = held + _ROUNDS
    f = held - (rounded - _ROUNDS)
    power = _ONE + f * (_C1 + f * (_C2 + f * (_C3 + f * _C4)))
    return _float(_bits(power) + (_bits(rounded) << np.uint32(23)))


@_compiled
def forward(
    x: Bits,
    channels: int,
    weight: Floats,
    bias: Floats,
    running_mean: Floats,
    running_var: Floats,
    momentum: float,
    eps: float,
    y: Bits,
    kept: Floats,
) -> None:
    """y = SiLU(BatchNorm(x)) by the statistics of x, with which the running ones move.

    `kept` of shape (4, columns) is what `backward` needs: scale and shift of t, mean, 1 / standard deviation.
    """
    rows, columns = x.shape
    pixels = rows * (columns // channels)
    mean, squares = np.empty(columns), np.empty(columns)
    _moments(x, mean, squares)
    for c in range(channels):
        centre = mean[c::channels].mean()
        total = 0.0
        for j in range(c, columns, channels):
            total += squares[j] + rows * (mean[j] - centre) ** 2
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * centre
        running_var[c] = (1 - momentum) * running_var[c] + momentum * total / (pixels - 1)
        inverse = 1 / np.sqrt(total / pixels + eps)
        kept[0, c::channels] = weight[c] * inverse * _MINUS_LOG2_E
        kept[1, c::channels] = (bias[c] - centre * weight[c] * inverse) * _MINUS_LOG2_E
        kept[2, c::channels] = centre
        kept[3, c::channels] = inverse
    _activate(x, kept[0], kept[1], y)


@_compiled
def backward(
    x: Bits, gradient: Bits, channels: int, weight: Floats, kept: Floats, dx: Bits, d_weight: Floats, d_bias: Floats
) -> None:
    """The gradients of what `forward` took, from that of y."""
    rows, columns = x.shape
    pixels = rows * (columns // channels)
    sums, products = np.zeros(columns), np.zeros(columns)
    _deactivate(x, gradient, kept, dx, sums, products)
    factors = np.empty((3, columns), np.float32)
    for c in range(channels):
        inverse, centre = np.float64(kept[3, c]), np.float64(kept[2, c])
        total = sums[c::channels].sum()
        product = products[c::channels].sum() * inverse
        d_bias[c], d_weight[c] = total, product
        of_z = weight[c] * inverse
        of_x = -of_z * inverse * product / pixels
        factors[0, c::channels] = of_z
        factors[1, c::channels] = of_x
        factors[2, c::channels] = -of_z * total / pixels - of_x * centre
    _combine(x, factors[0], factors[1], factors[2], dx)


@_compiled
def _moments(x: Bits, mean: Doubles, squares: Doubles) -> None:
    """Mean and sum of squared distances from it, of each column: block by block, each read twice while it is near, then
    put together as Chan, Golub and LeVeque do (Updating Formulae and a Pairwise Algorithm, 1979)."""
    rows, columns = x.shape
    total, own_mean = np.empty(columns, np.float32), np.empty(columns, np.float32)
    block = max(1, _L1_NUMBERS // columns)
    mean[:] = 0
    squares[:] = 0
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        fours = start + (stop - start) // 4 * 4  # sums of four go to memory once
        total[:] = 0
        for r in range(start, fours, 4):
            a, b, c, d = x[r], x[r + 1], x[r + 2], x[r + 3]
            for j in range(columns):
                total[j] += (_widened(a[j]) + _widened(b[j])) + (_widened(c[j]) + _widened(d[j]))
        for r in range(fours, stop):
            a = x[r]
            for j in range(columns):
                total[j] += _widened(a[j])
        share = _ONE / np.float32(stop - start)
        for j in range(columns):
            own_mean[j] = total[j] * share
            total[j] = 0
        for r in range(start, fours, 4):
            a, b, c, d = x[r], x[r + 1], x[r + 2], x[r + 3]
            for j in range(columns):
                m = own_mean[j]
                p, q, s, t = _widened(a[j]) - m, _widened(b[j]) - m, _widened(c[j]) - m, _widened(d[j]) - m
                total[j] += (p * p + q * q) + (s * s + t * t)
        for r in range(fours, stop):
            a = x[r]
            for j in range(columns):
                p = _widened(a[j]) - own_mean[j]
                total[j] += p * p
        part = (stop - start) / stop
        for j in range(columns):
            distance = np.float64(own_mean[j]) - mean[j]
            mean[j] += distance * part
            squares[j] += total[j] + distance * distance * (start * part)


@_compiled
def _activate(x: Bits, scale: Floats, shift: Floats, y: Bits) -> None:
    rows, columns = x.shape
    for r in range(rows):
        own, result = x[r], y[r]
        for j in range(columns):
            t = _widened(own[j]) * scale[j] + shift[j]
            result[j] = _narrowed(t / (_MINUS_LOG2_E + _MINUS_LOG2_E * _exp2(t)))


@_compiled
def _deactivate(x: Bits, gradient: Bits, kept: Floats, dz: Bits, sums: Doubles, products: Doubles) -> None:
    """dz from the gradient of SiLU(z), its sum for each column, and that of its products with x less the mean."""
    rows, columns = x.shape
    scale, shift, mean = kept[0], kept[1], kept[2]
    block = max(1, _L1_NUMBERS // columns)
    own_sum, own_product = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for start in range(0, rows, block):
        own_sum[:] = 0
        own_product[:] = 0
        for r in range(start, min(start + block, rows)):
            own, above, result = x[r], gradient[r], dz[r]
            for j in range(columns):
                value = _widened(own[j])
                t = value * scale[j] + shift[j]
                e = _exp2(t)
                sigmoid = _ONE / (_ONE + e)
                d = (_widened(above[j]) * sigmoid) * (_ONE + (_MINUS_LN_2 * t) * (e * sigmoid))
                result[j] = _narrowed(d)
                own_sum[j] += d
                own_product[j] += d * (value - mean[j])
        for j in range(columns):
            sums[j] += own_sum[j]
            products[j] += own_product[j]


@_compiled
def _combine(x: Bits, of_dz: Floats, of_x: Floats, constant: Floats, dx: Bits) -> None:
    """dx, in the place of dz."""
    rows, columns = x.shape
    for r in range(rows):
        own, result = x[r], dx[r]
        for j in range(columns):
            result[j] = _narrowed(_widened(result[j]) * of_dz[j] + _widened(own[j]) * of_x[j] + constant[j])
