"""The parts of compiled loops, against numpy, and the machine code that becomes of them."""

from __future__ import annotations

import platform
import re

import numpy as np
import pytest

pytest.importorskip("numba")

from pikvpress.kernels.compiling import compiled
from pikvpress.kernels.ragged_attention.loops import _dot_products, _unpack, _weighted_sums
from pikvpress.kernels.vectors import LANES, from_bfloat, from_half, pointer, power_of_two


@compiled()
def _powers(exponents, found):
    for i in range(len(exponents)):
        found[i] = power_of_two(exponents[i])


@compiled()
def _from_16_bits(numbers, halves, bfloats):
    for i in range(len(numbers)):
        halves[i], bfloats[i] = from_half(numbers[i]), from_bfloat(numbers[i])


def test_powers_of_two_are_right_to_the_last_bits():
    exponents = np.concatenate([np.linspace(-126, 0, 4001), [0.5, 20.0, -127.0, -1e30, -np.inf, np.nan]]).astype(
        np.float32
    )
    found = np.full_like(exponents, np.nan)
    _powers(exponents, found)
    np.testing.assert_allclose(found[:-4], np.exp2(exponents[:-4].astype(np.float64)), rtol=2e-7)
    assert (found[-4:-1] == 0).all() and np.isnan(found[-1])


def test_every_number_of_16_bits_is_itself_in_32():
    numbers = np.arange(2**16, dtype=np.uint16)
    halves, bfloats = np.empty((2, 2**16), np.float32)
    _from_16_bits(numbers, halves, bfloats)
    expected = numbers.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(halves, expected)  # what is no number is equal to itself here
    np.testing.assert_array_equal(np.signbit(halves), np.signbit(expected))
    np.testing.assert_array_equal(bfloats, (numbers.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
@pytest.mark.parametrize("eights", [1, 2, 7])
def test_codes_are_unpacked_and_no_more_is_written_than_announced(bits, eights):
    codes = np.random.default_rng(0).integers(0, 2**bits, 8 * eights)
    word = sum(int(code) << (bits * place) for place, code in enumerate(codes))
    packed = np.frombuffer(word.to_bytes(bits * eights, "little"), np.uint8)
    tile = np.full(8 * eights + LANES, -1, np.float32)
    _unpack(packed.ctypes.data, bits, 8 * eights, tile)
    np.testing.assert_array_equal(tile[: 8 * eights], codes)
    assert (tile[8 * eights + LANES - 1 :] == -1).all()


@pytest.mark.parametrize("width", [3, 16, 40, 64, 130])
@pytest.mark.parametrize(("rows", "entries"), [(1, 1), (3, 6), (7, 9), (4, 8)])
def test_products_and_sums_of_any_size(width, rows, entries):
    random = np.random.default_rng(0)
    queries, numbers = (random.standard_normal((count, width), np.float32) for count in (rows, entries))
    products = np.full((rows, entries + 2), np.nan, np.float32)
    _dot_products(queries, numbers.ravel(), width, width, entries, products)
    np.testing.assert_allclose(products[:, :entries], queries @ numbers.T, rtol=1e-4, atol=1e-5)
    weights = random.standard_normal((rows, entries + 2), np.float32)
    sums = np.ones((rows, width), np.float32)
    _weighted_sums(weights, numbers.ravel(), width, 1, width, entries, sums)
    expected = 1 + weights[:, :entries] @ numbers
    expected[:, 0] = 1
    np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-5)


@compiled()
def _four_bits_a_code(address, queries, tile, products, sums):
    _unpack(address, 4, tile.shape[0] - LANES, tile)
    _dot_products(queries, tile, 64, 64, 4, products)
    _weighted_sums(products, tile, 64, 0, 64, 4, sums)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads machine code of x86")
def test_machine_code_is_of_vectors():
    from llvmlite.binding import get_host_cpu_features

    if not get_host_cpu_features().get("avx2"):
        pytest.skip("this CPU has no AVX2")
    tile, queries = np.zeros(256 + LANES, np.float32), np.ones((2, 64), np.float32)
    address = np.zeros(256, np.uint8)
    _four_bits_a_code(address.ctypes.data, queries, tile, np.zeros((2, 4), np.float32), np.zeros((2, 64), np.float32))
    (code,) = _four_bits_a_code.inspect_asm().values()
    assert re.search(r"vcvtdq2ps.*%[yz]mm", code) and re.search(r"vfmadd\w+ps.*%[yz]mm", code)
    assert re.search(r"vpsrlvd.*%[yz]mm", code)  # every lane has its own shift: no code is taken out alone


def test_a_pointer_is_where_an_address_says():
    from numba import carray

    @compiled()
    def third(address):
        return carray(pointer(address), (3,), np.int16)[2]

    numbers = np.array([5, 6, 7], np.int16)
    assert third(numbers.ctypes.data) == 7
