"""Vector code for compiled loops: products of rows, codes side by side, numbers of 16 bits, powers of two.

What LLVM does not reliably make of loops is written here in its vector instructions, which it turns into those of the
machine. Tiles of queries and entries stay in registers while channels pass by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pikvpress.kernels.compiling import compiled

LANES = 16  # codes that are unpacked at once: eight of them are whole bytes, whatever their bits
WIDE = 16 if get_host_cpu_features().get("avx512f") else 8  # float32 numbers of a vector
ENTRIES = 4  # of a tile of registers
FLAGS = ("reassoc", "contract", "nsz")
INDEX = ir.IntType(64)


def _in_line(function: Callable[..., Any]) -> Any:
    """Return a function of types that yields the code of a call, as one that compiled code can call."""
    return intrinsic(function)


class _Floats:
    """An array of float32 for code that uses vectors; places are counted from its first number."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any):
        array = context.make_array(kind)(context, builder, value)
        self._builder, self._data = builder, array.data
        self.row = cgutils.unpack_tuple(builder, array.shape)[-1]

    def load(self, place: Any, lanes: int) -> Any:
        return self._builder.load(self._at(place, lanes), align=4)

    def load_everywhere(self, place: Any, lanes: int) -> Any:
        return _everywhere(self._builder, self._builder.load(self._at(place, 1)), lanes)

    def store(self, value: Any, place: Any, lanes: int) -> None:
        self._builder.store(value, self._at(place, lanes), align=4)

    def _at(self, place: Any, lanes: int) -> Any:
        pointer = self._builder.gep(self._data, [place])
        return pointer if lanes == 1 else self._builder.bitcast(pointer, _floats(lanes).as_pointer())


def _floats(lanes: int) -> Any:
    return ir.VectorType(ir.FloatType(), lanes)


def _picked(builder: Any, first: Any, second: Any, places: Sequence[int]) -> Any:
    index = ir.VectorType(ir.IntType(32), len(places))
    return builder.shuffle_vector(first, second, ir.Constant(index, [*places]))


def _everywhere(builder: Any, number: Any, lanes: int) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    alone = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return _picked(builder, alone, nothing, [0] * lanes)


def _plus_product(builder: Any, total: Any, one: Any, other: Any) -> Any:
    return builder.fadd(total, builder.fmul(one, other, flags=FLAGS), flags=FLAGS)


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """Return the sum of each vector as a vector of these sums; vectors are joined while neighbours are added."""

    def halved(first: Any, second: Any, lanes: int) -> Any:
        even, odd = (_picked(builder, first, second, range(parity, lanes, 2)) for parity in (0, 1))
        return builder.fadd(even, odd, flags=FLAGS)

    number = len(vectors)
    while len(vectors) > 1:
        vectors = [halved(a, b, 2 * WIDE) for a, b in zip(vectors[0::2], vectors[1::2], strict=True)]
    (sums,) = vectors
    while sums.type.count > number:
        sums = halved(sums, sums, sums.type.count)
    return sums


def _products_of(rows: int) -> Callable[..., None]:
    @_in_line
    def products(
        typing: Any, queries: Any, row: Any, numbers: Any, at: Any, step: Any, width: Any, found: Any, place: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            query, key, result = (_Floats(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 6))
            row, at, step, width, place = (arguments[i] for i in (1, 3, 4, 5, 7))
            zero = ir.Constant(_floats(WIDE), [0.0] * WIDE)
            totals = [[cgutils.alloca_once_value(builder, zero) for _ in range(ENTRIES)] for _ in range(rows)]
            row_numbers = [builder.add(row, INDEX(r)) for r in range(rows)]
            starts = [builder.mul(number, query.row) for number in row_numbers]
            firsts = [builder.add(at, builder.mul(INDEX(e), step)) for e in range(ENTRIES)]
            steps = builder.udiv(width, INDEX(WIDE))
            with cgutils.for_range(builder, steps) as loop:
                channel = builder.mul(loop.index, INDEX(WIDE))
                keys = [key.load(builder.add(first, channel), WIDE) for first in firsts]
                for start, of_row in zip(starts, totals, strict=True):
                    states = query.load(builder.add(start, channel), WIDE)
                    for total, one in zip(of_row, keys, strict=True):
                        builder.store(_plus_product(builder, builder.load(total), states, one), total)
            for number, of_row in zip(row_numbers, totals, strict=True):
                sums = _lane_sums(builder, [builder.load(total) for total in of_row])
                result.store(sums, builder.add(builder.mul(number, result.row), place), ENTRIES)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(queries, whole, numbers, whole, whole, whole, found, whole), generate

    return products  # type: ignore[no-any-return]


products_of_1, products_of_2, products_of_4 = (_products_of(rows) for rows in (1, 2, 4))
"""found[row + r, place + e] = Σ_c queries[row + r, c] · numbers[at + e · step + c] for c below the last whole vector of
``width`` channels, as many rows r as the name says and `ENTRIES` entries e."""


def _sums_of(rows: int, vectors: int) -> Callable[..., None]:
    @_in_line
    def sums(
        typing: Any, weights: Any, row: Any, numbers: Any, at: Any, step: Any, entries: Any, into: Any, channel: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            weight, value, result = (_Floats(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 6))
            row, at, step, entries, channel = (arguments[i] for i in (1, 3, 4, 5, 7))
            numbers_of = [builder.add(row, INDEX(r)) for r in range(rows)]
            places = [
                [
                    builder.add(builder.mul(number, result.row), builder.add(channel, INDEX(v * WIDE)))
                    for v in range(vectors)
                ]
                for number in numbers_of
            ]
            starts = [builder.mul(number, weight.row) for number in numbers_of]
            totals = [
                [cgutils.alloca_once_value(builder, result.load(place, WIDE)) for place in of_row] for of_row in places
            ]
            with cgutils.for_range(builder, entries) as loop:
                first = builder.add(builder.add(at, channel), builder.mul(loop.index, step))
                values = [value.load(builder.add(first, INDEX(v * WIDE)), WIDE) for v in range(vectors)]
                for start, of_row in zip(starts, totals, strict=True):
                    factor = weight.load_everywhere(builder.add(start, loop.index), WIDE)
                    for total, one in zip(of_row, values, strict=True):
                        builder.store(_plus_product(builder, builder.load(total), factor, one), total)
            for of_row, of_places in zip(totals, places, strict=True):
                for total, place in zip(of_row, of_places, strict=True):
                    result.store(builder.load(total), place, WIDE)
            return context.get_dummy_value()

        whole = types.int64
        return types.void(weights, whole, numbers, whole, whole, whole, into, whole), generate

    return sums  # type: ignore[no-any-return]


sums_of_1, sums_of_2, sums_of_4 = (_sums_of(rows, 4) for rows in (1, 2, 4))
one_sum_of_1 = _sums_of(1, 1)


def _polynomial_of(terms: int) -> Callable[..., None]:
    @_in_line
    def odd_polynomial(typing: Any, numbers: Any, at: Any, shift: Any, factor: Any, coefficients: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            tile = _Floats(context, builder, signature.args[0], arguments[0])
            at, shift, factor, coefficients = arguments[1:]
            *lower, power = (
                _everywhere(builder, one, WIDE) for one in cgutils.unpack_tuple(builder, coefficients, terms)
            )
            shift, factor = (_everywhere(builder, one, WIDE) for one in (shift, factor))
            x = builder.fmul(builder.fsub(tile.load(at, WIDE), shift, flags=FLAGS), factor, flags=FLAGS)
            square = builder.fmul(x, x, flags=FLAGS)
            for one in reversed(lower):
                power = _plus_product(builder, one, power, square)
            tile.store(builder.fmul(x, power, flags=FLAGS), at, WIDE)
            return context.get_dummy_value()

        kinds = (types.int64, types.float32, types.float32, types.UniTuple(types.float32, terms))
        return types.void(numbers, *kinds), generate

    return odd_polynomial  # type: ignore[no-any-return]


odd_polynomial_of_4, odd_polynomial_of_8 = (_polynomial_of(terms) for terms in (4, 8))
"""Replace `WIDE` numbers y from a place on by Σ_i coefficients[i] x^(2i + 1) of x = (y - shift) · factor."""


@_in_line
def maximum(typing: Any, numbers: Any, row: Any, count: Any) -> Any:
    """Return the largest of a row's first numbers, a multiple of `WIDE`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tile = _Floats(context, builder, signature.args[0], arguments[0])
        row, count = arguments[1:]
        first = builder.mul(row, tile.row)
        none = ir.Constant(_floats(WIDE), [float("-inf")] * WIDE)
        largest = cgutils.alloca_once_value(builder, none)

        def larger(one: Any, other: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", one, other), one, other)

        with cgutils.for_range(builder, builder.udiv(count, INDEX(WIDE))) as loop:
            place = builder.add(first, builder.mul(loop.index, INDEX(WIDE)))
            builder.store(larger(tile.load(place, WIDE), builder.load(largest)), largest)
        left = builder.load(largest)
        while left.type.count > 1:
            half = left.type.count // 2
            left = larger(*(_picked(builder, left, left, range(start, start + half)) for start in (0, half)))
        return builder.extract_element(left, ir.Constant(ir.IntType(32), 0))

    return types.float32(numbers, types.int64, types.int64), generate


@_in_line
def pointer(typing: Any, address: Any) -> Any:
    """Return an address as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@_in_line
def spread_codes(typing: Any, target: Any, at: Any, low: Any, high: Any, bits: Any) -> Any:
    """Write `LANES` codes as numbers, the first eight of one word and of another; the first is in the lowest bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = _Floats(context, builder, signature.args[0], arguments[0])
        place, low, high, bits = arguments[1:]
        half, whole, one = LANES // 2, ir.VectorType(ir.IntType(32), LANES), ir.IntType(32)(1)
        first, second = (_everywhere(builder, word, half) for word in (low, high))
        words = _picked(builder, first, second, range(LANES))
        shifts = builder.mul(_everywhere(builder, bits, LANES), ir.Constant(whole, [*range(half)] * 2))
        mask = builder.sub(builder.shl(one, bits), one)
        codes = builder.and_(builder.lshr(words, shifts), _everywhere(builder, mask, LANES))
        numbers.store(builder.sitofp(codes, _floats(LANES)), place, LANES)
        return context.get_dummy_value()

    return types.void(target, types.int64, types.uint32, types.uint32, types.uint32), generate


@compiled()
def from_half(half):
    """Return a float16, given as uint16, in float32."""
    bits = np.uint32(half)
    size = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
    # The exponents' offsets differ by 112; a product takes subnormal numbers along.
    number = size.view(np.float32) * np.float32(2.0**112)
    whole = np.float32(number).view(np.uint32)
    if (bits & np.uint32(0x7C00)) == np.uint32(0x7C00):
        whole = size | np.uint32(0x7F800000)
    return np.uint32(whole | ((bits & np.uint32(0x8000)) << np.uint32(16))).view(np.float32)


@compiled()
def from_bfloat(upper):
    """Return a bfloat16, given as uint16, in float32."""
    return np.uint32(np.uint32(upper) << np.uint32(16)).view(np.float32)


@compiled()
def power_of_two(exponent):
    """Return 2^x in float32 of x at most 127; 0 where that is less than the least normal number."""
    kept = exponent if exponent > np.float32(-126.0) else np.float32(-126.0)
    whole = np.floor(kept + np.float32(0.5))
    rest = kept - whole
    # 2^x on [-1/2, 1/2] by the polynomial of least relative error
    power = np.float32(1.5353362e-4)
    power = power * rest + np.float32(1.3398874e-3)
    power = power * rest + np.float32(9.6184373e-3)
    power = power * rest + np.float32(5.5503324e-2)
    power = power * rest + np.float32(2.4022648e-1)
    power = power * rest + np.float32(6.9314720e-1)
    power = power * rest + np.float32(1.0)
    shift = np.int32(np.int32(whole + np.float32(127.0)) << np.int32(23)).view(np.float32)
    if exponent >= np.float32(-126.0):
        return power * shift
    return np.float32(0.0) if exponent < np.float32(-126.0) else exponent  # what is no number stays none
