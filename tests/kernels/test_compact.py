"""Compaction: which rows are kept, their copies without gaps, and their bytes."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from benchmarks.kernels.operations.compact import COMPACT_AND_PACK, COMPACT_ROWS
from pikvpress.cache.codecs import CODECS
from pikvpress.cache.ragged import Ragged, stored_bytes
from pikvpress.kernels.compact import compact_and_pack, compact_rows, gather_rows, select
from pikvpress.kernels.packing import dequantise, unpack_bits

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_the_best_rows_stay_in_position_order():
    scores = torch.tensor([[[0.1, 0.9, 0.5, 0.7]]])
    positions = select(scores, 2)
    assert positions.tolist() == [[[1, 3]]]
    states = torch.arange(8.0).view(1, 1, 4, 2)
    assert gather_rows(states, positions).tolist() == [[[[2, 3], [6, 7]]]]


def test_each_head_keeps_its_own_rows():
    scores = torch.tensor([[[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]])
    assert select(scores, 1).tolist() == [[[0], [2]]]


def drawn(batch=2, heads=3, tokens=90, head_dim=16, dtype=torch.float32):
    """Return states and flags as views with tokens before heads in memory; the second head keeps nothing."""
    torch.manual_seed(0)
    states = torch.randn(batch, tokens, heads, head_dim).to(dtype).transpose(1, 2)
    kept = (torch.rand(batch, tokens, heads) < 0.4).transpose(1, 2)
    kept[0, 1] = False
    return states, kept, kept.flatten(0, 1).sum(dim=-1).tolist()


def test_kept_rows_lie_one_head_after_the_other_in_position_order():
    states, kept, counts = drawn()
    found = compact_rows(states, kept, sum(counts))
    expected = [
        states[batch, head, position].tolist()
        for batch in range(2)
        for head in range(3)
        for position in range(90)
        if kept[batch, head, position]
    ]
    assert found.rows.tolist() == expected
    assert found.counts.tolist() == counts
    assert found.starts.tolist() == list(accumulate(counts, initial=0))[:-1]


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("is_keys", [True, False])
def test_the_bytes_are_those_that_the_cache_keeps(bits, is_keys):
    states, kept, counts = drawn(tokens=300, head_dim=80)
    codec = CODECS[f"int{bits}"]
    parts = [head[stay] for head, stay in zip(states.flatten(0, 1), kept.flatten(0, 1), strict=True)]
    found = compact_and_pack(states, kept, counts, bits, 64, is_keys)
    assert torch.equal(found.buffer, Ragged.store(parts, [codec] * 6, is_keys, all_channels=True).buffer)
    sizes = [stored_bytes(codec, count, 80, torch.float32, is_keys) for count in counts]
    assert found.starts.tolist() == list(accumulate(sizes, initial=0))[:-1]


def unpacked(packed, counts, head_dim, bits, group, along_tokens):
    """Yield codes, scales and zero points of each head that keeps rows."""
    buffer, starts = packed.buffer.cpu(), packed.starts.tolist()
    for count, start in zip(counts, starts, strict=True):
        if count:
            shape = (-(-count // group), head_dim) if along_tokens else (count, -(-head_dim // group))
            end = start + 4 * shape[0] * shape[1]
            scale, zero = buffer[start:end].view(torch.float16).view(2, *shape)
            codes = unpack_bits(buffer[end : end + count * head_dim * bits // 8].view(count, -1), bits)
            yield codes, scale, zero


# On a CPU, the reference divides as the kernel does; on other devices torch may multiply by the reciprocal.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize(("group", "along_tokens"), [(64, True), (64, False), (5, True), (24, False)])
def test_the_kernel_packs_as_the_reference_does(poisoned, dtype, bits, group, along_tokens):
    states, kept, counts = drawn(tokens=250, head_dim=80, dtype=dtype)
    how = (counts, bits, group, along_tokens)
    expected = compact_and_pack(states, kept, *how)
    found = COMPACT_AND_PACK.kernel(states.to(DEVICE), kept.to(DEVICE), *how)
    assert found.buffer.shape == expected.buffer.shape and torch.equal(found.starts.cpu(), expected.starts)
    pairs = zip(unpacked(found, counts, 80, *how[1:]), unpacked(expected, counts, 80, *how[1:]), strict=True)
    parts = [head[stay] for head, stay in zip(states.flatten(0, 1), kept.flatten(0, 1), strict=True) if stay.any()]
    for part, (ours, theirs) in zip(parts, pairs, strict=True):
        assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
        apart = (ours[0].int() - theirs[0].int()).abs()  # a quotient halfway between codes may be rounded either way
        assert apart.max() <= 1 and (apart == 0).float().mean() >= 0.999
        numbers = dequantise(*ours, group, along_tokens, torch.float32)
        step = dequantise(torch.ones_like(ours[0]), ours[1], torch.zeros_like(ours[2]), *how[2:], torch.float32)
        assert ((numbers - part.float()).abs() <= 0.51 * step + 2e-2).all()  # scales are rounded to float16


def test_halves_are_rounded_to_even():
    states = torch.tensor([0, 255, 0.5, 1.5, 2.5, 3.5, 4.5, 126.5]).view(1, 1, 8, 1)
    kept = torch.ones(1, 1, 8, dtype=torch.bool)
    packed = COMPACT_AND_PACK.kernel(states.to(DEVICE), kept.to(DEVICE), [8], 8, 64, True)
    assert packed.buffer[4:12].tolist() == [0, 255, 0, 2, 2, 4, 4, 126]


@pytest.mark.parametrize("function", [compact_and_pack, "kernel"])
@pytest.mark.parametrize("number", [1e6, -1e6, torch.inf, torch.nan])
def test_numbers_that_no_scale_fits_are_refused_where_they_are_kept(function, number):
    function = COMPACT_AND_PACK.kernel if function == "kernel" else function
    states, kept, counts = (thing.to(DEVICE) if isinstance(thing, torch.Tensor) else thing for thing in drawn())
    states[1, 2, 7, 3] = number
    kept[1, 2, 7] = True
    counts[5] = int(kept[1, 2].sum())
    for along_tokens in (True, False):
        with pytest.raises(ValueError, match="cannot be packed"):
            function(states, kept, counts, 4, 64, along_tokens)
        kept[1, 2, 7] = False
        assert function(states, kept, [*counts[:5], counts[5] - 1], 4, 64, along_tokens).buffer.numel() > 0
        kept[1, 2, 7] = True


@pytest.mark.parametrize("form", ["reference", "kernel"])
def test_what_does_not_fit_is_refused(form):
    rows, pack = getattr(COMPACT_ROWS, form), getattr(COMPACT_AND_PACK, form)
    states, kept, counts = drawn(head_dim=12)
    for call in (lambda flags: rows(states, flags, 5), lambda flags: pack(states, flags, counts, 4, 64, True)):
        with pytest.raises(ValueError, match=r"a bool for each row"):
            call(kept[:, :, 1:])
        with pytest.raises(ValueError, match=r"a bool for each row"):
            call(kept.float())
    with pytest.raises(ValueError, match="codes of 5 bits are not supported"):
        pack(states, kept, counts, 5, 64, True)
    with pytest.raises(ValueError, match="multiple of 8"):
        pack(states, kept, counts, 3, 64, True)
    with pytest.raises(ValueError, match=r"groups of 6 codes of 2 bits.*multiple of 4"):
        pack(states, kept, counts, 2, 6, False)
    with pytest.raises(ValueError, match="do not fit 6 heads of 90 rows"):
        pack(states, kept, counts[1:], 4, 64, True)


def test_wrong_numbers_of_rows_are_noticed_on_a_cpu():
    states, kept, counts = drawn()
    with pytest.raises(ValueError, match=rf"{sum(counts)} rows are kept but total is 3"):
        compact_rows(states, kept, 3)
    with pytest.raises(ValueError, match="head 1 keeps 0 rows but its count is 1"):
        compact_and_pack(states, kept, [counts[0], 1, *counts[2:]], 4, 64, True)


@pytest.mark.parametrize("announced", [0, 3, 10_000])
def test_a_wrong_number_of_rows_does_no_harm_in_the_kernel(announced):
    states, kept, counts = (thing.to(DEVICE) if isinstance(thing, torch.Tensor) else thing for thing in drawn())
    found = COMPACT_ROWS.kernel(states, kept, announced)
    right = min(announced, sum(counts))
    assert len(found.rows) == announced and torch.equal(found.rows[:right], states[kept][:right])
