"""Attention over heads of different length: the definition against softmax written out, kernels against that."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch

from benchmarks.kernels.operations.ragged_attention import RAGGED_ATTENTION
from pikvpress.cache import CODECS, codec
from pikvpress.cache.ragged import Ragged
from pikvpress.kernels.compiling import numba_is_installed
from pikvpress.kernels.ragged_attention import attend, attend_and_sum, attend_capped, reference, triton
from pikvpress.kernels.ragged_attention.plan import ANY, Piece, entries_a_piece, plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = [triton]
if DEVICE == "cpu" and numba_is_installed():
    from pikvpress.kernels.ragged_attention import compiled

    KERNELS.append(compiled)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
INTEGERS = ["exact", "int8", "int4", "int3", "int2"]
ROTATED = ["rot4", "rot3", "rot2", "rot1"]
NAMES = [*INTEGERS, *ROTATED]
BATCH, HEADS, GROUP, DIM = 2, 3, 2, 16


class Parts:
    layout = None

    def __init__(self, parts):
        self._parts = parts

    def part(self, index):
        return self._parts[index]

    def rotated_part(self, index):
        return None


def random_rows(counts, generator):
    return [torch.randn(count, DIM, generator=generator) for count in counts]


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("recent", [3, 7])
def test_it_is_softmax_over_everything_that_is_there(tokens, recent):
    generator = torch.Generator().manual_seed(tokens)
    query = torch.randn(BATCH, HEADS * GROUP, tokens, DIM, generator=generator)
    counts = [[5, 0, 9, 1, 30, 2], [4, 4, 0, 0, 8, 1]]
    held = [(random_rows(row, generator), random_rows(row, generator)) for row in counts]
    keys, values = torch.randn(2, BATCH, HEADS, recent, DIM, generator=generator)
    hidden = torch.zeros(BATCH, 1, tokens, recent, dtype=torch.bool)
    hidden[0, :, :, 0] = True
    output, lse = attend(query, [(Parts(k), Parts(v)) for k, v in held], keys, values, hidden, 0.3)
    for row in range(BATCH):
        for head in range(HEADS * GROUP):
            place = row * HEADS + head // GROUP
            seen = ~hidden[row, 0, 0]
            all_keys = torch.cat([held[0][0][place], held[1][0][place], keys[row, head // GROUP][seen]]).double()
            all_values = torch.cat([held[0][1][place], held[1][1][place], values[row, head // GROUP][seen]]).double()
            logits = query[row, head].double() @ all_keys.T * 0.3
            torch.testing.assert_close(
                output[row, head].double(), logits.softmax(-1) @ all_values, atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(lse[row, head].double(), logits.logsumexp(-1), atol=1e-5, rtol=1e-5)


class Wide:
    layout = None

    def __init__(self, ragged):
        self._ragged = ragged

    def part(self, index):
        return self._ragged.part(index).double()

    def rotated_part(self, index):
        return None


def held_of(counts, key_names, value_names, head_dim=DIM, dtype=torch.float32, cleared=()):
    """Return keys and values of as many heads, codecs in turn; some channels of keys are 0, other ones in each head."""
    sides = []
    for is_keys, names in ((True, key_names), (False, value_names)):
        parts = [torch.randn(count, head_dim, device=DEVICE) for count in counts]
        for number, part in enumerate(parts):
            part[:, [(channel + number) % head_dim for channel in cleared if is_keys]] = 0
        codecs = [codec(names[number % len(names)]) for number in range(len(parts))]
        sides.append(Ragged.store([part.to(dtype) for part in parts], codecs, is_keys))
    return tuple(sides)


def inputs_of(held, recent=5, tokens=1, batch=1, group=2):
    """Return what the kernel and the definition take; the recent entries and queries lie as models leave them."""
    ragged = held[0][0]
    heads = len(ragged.counts) // batch
    query = torch.randn(batch, tokens, heads * group, ragged.head_dim, device=DEVICE).to(ragged.dtype)
    keys, values = torch.randn(2, batch, heads, recent + 3, ragged.head_dim, device=DEVICE).to(ragged.dtype)
    latest = torch.arange(recent, device=DEVICE)
    hidden = latest > recent - tokens + torch.arange(tokens, device=DEVICE)[:, None]
    scaling = ragged.head_dim**-0.5
    return query.transpose(1, 2), held, keys[:, :, 3:], values[:, :, 3:], hidden[None, None], scaling


def check(query, held, keys, values, hidden, scaling, kernels=KERNELS):
    """Check kernels against the definition in float64."""
    wide = [(Wide(k), Wide(v)) for k, v in held]
    expected = attend_and_sum(query.double(), wide, keys.double(), values.double(), hidden, scaling)
    for kernel in kernels:
        found = kernel.attend(query, held, keys, values, hidden, scaling)
        assert found[0].dtype == query.dtype and found[1].dtype == torch.float32
        if hasattr(kernel, "attend_and_sum"):
            *same, received = kernel.attend_and_sum(query, held, keys, values, hidden, scaling)
            assert all(torch.equal(one, other) for one, other in zip(same, found, strict=True))
            found = (*found, received)
        for one, other in zip(found, expected, strict=False):  # not all have all
            assert one.shape == other.shape
            error = (one.double() - other).norm() / other.norm()
            assert error < TOLERANCE[query.dtype], (kernel.__name__, error)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_reads_every_codec(name, dtype, poisoned):
    torch.manual_seed(0)
    check(*inputs_of([held_of([150, 0, 65, 1], [name], [name], 64, dtype)]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_heads_and_both_sides_may_have_codecs_of_their_own(dtype, poisoned):
    torch.manual_seed(0)
    for names in (INTEGERS, ROTATED, ["rot2", "int4", "exact"]):
        held = held_of([70, 3, 130, 64, 90, 1], names, names[::-1], 128, dtype)
        check(*inputs_of([held], batch=2, tokens=3))
    check(*inputs_of([held_of([70, 80], ["exact"], ["int4"], 32, dtype)], recent=0))
    check(*inputs_of([held_of([70, 80], ["int3"], ["exact"], 32, dtype)], recent=0))


@pytest.mark.parametrize("group", [1, 3, 5, 8])
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_groups_of_queries_and_several_tokens(group, tokens, poisoned):
    torch.manual_seed(0)
    held = held_of([140, 20], ["int4", "exact"], ["int8", "exact"], 32, torch.float16)
    check(*inputs_of([held], recent=20, tokens=tokens, group=group))


@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("name", ["exact", "int3", "int2", "rot3", "rot2"])
def test_head_sizes(head_dim, name, poisoned):
    torch.manual_seed(0)
    check(*inputs_of([held_of([70, 129], [name], [name], head_dim)], group=1))


@pytest.mark.parametrize("names", [["exact"], ["int8"], ["int4"], ["int3"], INTEGERS])
@pytest.mark.parametrize("cleared", [1, 24, 40, 64])
def test_channels_that_are_not_stored_are_zero(names, cleared, poisoned):
    torch.manual_seed(0)
    held = held_of([66, 10, 70], names, ["int4"], 64, cleared=range(cleared))
    assert cleared == 1 or any(live is not None for live in held[0].channels)
    check(*inputs_of([held]))


def test_rotated_keys_have_a_mean_for_each_block(poisoned):
    torch.manual_seed(0)
    held = held_of([600, 256, 1], ["rot2", "rot4"], ["rot1", "exact", "int4"])
    check(*inputs_of([held], batch=1, tokens=2))
    rows = [torch.randn(200, DIM, device=DEVICE) for _ in range(3)]
    grouped = Ragged.store(rows, [codec("rot3").following] * 3, True), Ragged.store(rows, [codec("rot2")] * 3, False)
    check(*inputs_of([held, grouped]))


def test_stretches_are_attended_to_together(poisoned):
    """A context, its window, which is exact, and what has been packed since."""
    torch.manual_seed(0)
    first, second = (held_of([64] * 4, ["int4"], ["int2"]) for _ in range(2))
    decoded = tuple(one.joined(other) for one, other in zip(first, second, strict=True))
    held = [held_of([130, 0, 7, 260], ["int4"], ["int2"]), held_of([9, 16, 0, 1], ["exact"], ["exact"]), decoded]
    check(*inputs_of(held, batch=2, tokens=2))


def test_nothing_held_or_nothing_recent(poisoned):
    torch.manual_seed(0)
    check(*inputs_of([held_of([0, 0], ["exact"], ["int4"])], recent=300))
    check(*inputs_of([held_of([1, 300], ["exact"], ["exact"])], recent=0))
    check(*inputs_of([held_of([5, 300], ["int4"], ["int4"])], recent=0, tokens=2))


def test_padding_is_hidden_by_row_of_the_batch(poisoned):
    torch.manual_seed(0)
    query, held, keys, values, _, scaling = inputs_of([held_of([5, 0, 70, 1], ["int8"], ["int8"])], batch=2, tokens=2)
    hidden = torch.zeros(2, 1, 2, 5, dtype=torch.bool, device=DEVICE)
    hidden[1, :, :, :3] = True
    hidden[:, :, 0, 4] = True
    check(query, held, keys, values, hidden, scaling)
    check(query, held, keys, values, hidden.new_zeros(1, 1, 1, 1).expand(1, 1, 2, 5), scaling)


@pytest.mark.parametrize("kernel", KERNELS)
def test_halves_are_merged_by_their_log_sums(kernel, poisoned):
    torch.manual_seed(0)
    one, other = held_of([200, 3], ["int4"], ["int4"]), held_of([40, 90], ["exact"], ["exact"])
    query, _, keys, values, hidden, scaling = inputs_of([one])
    whole, log_sum = kernel.attend(query, [one, other], keys, values, hidden, scaling)
    first, of_first = kernel.attend(query, [one], keys, values, hidden, scaling)
    second, of_second = kernel.attend(query, [other], keys[:, :, :0], values[:, :, :0], hidden[..., :0], scaling)
    torch.testing.assert_close(torch.logaddexp(of_first, of_second), log_sum, atol=1e-5, rtol=1e-5)
    weights = [(part - log_sum).exp().unsqueeze(-1) for part in (of_first, of_second)]
    torch.testing.assert_close(weights[0] * first + weights[1] * second, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_query_that_sees_nothing_of_a_part_has_nothing_from_it(kernel, poisoned):
    """Its log-sum-exp is that of nothing; the definition alone would have no number there."""
    torch.manual_seed(0)
    query, held, keys, values, hidden, scaling = inputs_of([held_of([0, 4], ["exact"], ["exact"])])
    output, log_sum = kernel.attend(query, held, keys, values, torch.ones_like(hidden), scaling)
    assert (output[:, :2] == 0).all() and (log_sum[:, :2] == -torch.inf).all() and log_sum[:, 2:].isfinite().all()


def test_numbers_far_from_zero_do_not_overflow(poisoned):
    torch.manual_seed(0)
    query, held, keys, values, hidden, _ = inputs_of([held_of([300, 4], ["exact"], ["exact"])])
    check(100 * query, held, keys, values, hidden, 10.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_no_kernel_reads_is_left_to_the_definition(kernel):
    torch.manual_seed(0)
    given = inputs_of([held_of([90, 40], ["int4", "rank4"], ["exact"])])
    assert given[1][0][0].layout is None
    for one, other in zip(kernel.attend(*given), reference.attend(*given), strict=True):
        assert torch.equal(one, other)
    nothing = (given[0], [], *given[2:])
    for one, other in zip(kernel.attend(*nothing), reference.attend(*nothing), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kernel", KERNELS)
def test_types_that_differ_are_refused(kernel):
    query, held, keys, values, hidden, scaling = inputs_of([held_of([9, 4], ["exact"], ["exact"])])
    with pytest.raises(ValueError, match=r"queries are torch.float16.*convert them to one type"):
        kernel.attend(query.half(), held, keys, values, hidden, scaling)


def layouts_of(*held):
    return [tuple(side.layout for side in pair) for pair in held]


@pytest.mark.parametrize("programs", [1, 4, 30])
def test_a_plan_covers_every_entry_once_in_pieces_of_like_size(programs):
    first, second = [3000, 0, 100, 1], [64, 64, 0, 64]
    cut = plan(layouts_of(held_of(first, ["int4"], ["int2"]), held_of(second, ["exact"], ["exact"])), programs)
    pieces = [Piece(*row) for row in cut.table.tolist()]
    assert len(pieces) == cut.pieces <= max(programs, 2 * 6)
    for place, count in enumerate(zip(first, second, strict=True)):
        rows = pieces[cut.firsts[place] : cut.firsts[place + 1]]
        assert all(piece.place == place for piece in rows)
        for bits, total in zip((4, 0), count, strict=True):
            stretches = sorted((piece.first, piece.last) for piece in rows if piece.key_bits == bits)
            assert [a for a, _ in stretches] == [0, *(b for _, b in stretches)][: len(stretches)]
            assert (stretches[-1][1] if stretches else 0) == total
    assert (cut.key_bits, cut.value_bits) == (4, 2)
    assert max(piece.last - piece.first for piece in pieces) == entries_a_piece([*first, *second], programs, 64)


def test_where_bits_differ_the_plan_says_so():
    cut = plan(layouts_of(held_of([70, 70, 0], ["int4", "int8", "int2"], ["exact"])), 10)
    assert (cut.key_bits, cut.value_bits, cut.exact_align) == (ANY, 0, 0)


def test_a_plan_is_made_anew_where_memory_has_moved():
    (held,) = layouts_of(held_of([70, 3], ["exact"], ["int4"]))
    cut, before = plan([held], 10), held[1].buffer.clone()
    held[1].buffer.share_memory_()  # as when it is sent to another process
    assert plan([held], 10) is not cut and plan([held], 10) is plan([held], 10)
    assert torch.equal(held[1].buffer, before)


def test_a_plan_is_kept_as_long_as_what_is_held():
    one, other = held_of([70, 3], ["int4"], ["int4"]), held_of([64, 64], ["int4"], ["int4"])
    cut = plan(layouts_of(one, other), 10)
    assert plan(layouts_of(one, other), 10) is cut
    assert plan(layouts_of(one, other), 20) is not cut
    more = tuple(side.joined(side) for side in other)
    assert plan(layouts_of(one, more), 10) is not cut
    assert plan(layouts_of(one, other), 10) is cut
    assert plan(layouts_of(held_of([70, 3], ["int4"], ["int4"]), other), 10) is not cut


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_copy_is_read_where_it_lies(kernel, poisoned):
    given = inputs_of([held_of([70, 3], ["int4"], ["exact"])])
    query, held, *rest = given
    expected = kernel.attend(*given)
    copied = deepcopy(held)
    for side in held[0]:
        side.buffer.fill_(0)
    assert copied[0][0].layout is not held[0][0].layout
    assert torch.equal(kernel.attend(query, copied, *rest)[0], expected[0])


def test_every_codec_that_is_not_low_rank_has_a_kernel():
    assert all(one.has_kernel for one in CODECS.values()) and not codec("rank8+int2").has_kernel


def test_heads_are_read_in_turn_where_logits_would_be_many(monkeypatch):
    inputs = RAGGED_ATTENTION.make(torch.float32, "cpu", **RAGGED_ATTENTION.small[0])
    together = reference.attend(**inputs)
    monkeypatch.setattr(reference, "NUMBERS", 1)
    for one, other in zip(reference.attend(**inputs), together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("numbers", [reference.NUMBERS, 60])  # all heads at once, and a few
def test_attention_that_entries_receive(tokens, numbers, monkeypatch):
    monkeypatch.setattr(reference, "NUMBERS", numbers)
    generator = torch.Generator().manual_seed(tokens)
    query = torch.randn(BATCH, HEADS * GROUP, tokens, DIM, generator=generator, dtype=torch.float64)
    counts = [[5, 0, 9, 1, 30, 2], [4, 4, 0, 0, 8, 1]]
    held = [([part.double() for part in random_rows(row, generator)],) * 2 for row in counts]
    keys, values = torch.randn(2, BATCH, HEADS, 7, DIM, generator=generator, dtype=torch.float64)
    hidden = torch.ones(tokens, 7, dtype=torch.bool).triu(8 - tokens)[None, None]
    arguments = (query, [(Parts(k), Parts(v)) for k, v in held], keys, values, hidden, 0.3)
    output, lse, received = attend_and_sum(*arguments)
    for mine, other in zip((output, lse), attend(*arguments), strict=True):
        assert torch.equal(mine, other)
    most = max(map(sum, zip(*counts, strict=True)))
    assert received.shape == (BATCH, HEADS, most + 7)
    for place in range(BATCH * HEADS):
        row, head = divmod(place, HEADS)
        count = counts[0][place] + counts[1][place]
        every = torch.cat([held[0][0][place], held[1][0][place], keys[row, head]])
        logits = query[row, head * GROUP : (head + 1) * GROUP] @ every.T * 0.3
        logits[..., count:].masked_fill_(hidden[0, 0], -torch.inf)
        expected = logits.softmax(dim=-1).sum(dim=1).mean(dim=0)
        found = torch.cat([received[row, head, :count], received[row, head, most:]])
        torch.testing.assert_close(found, expected)
        assert not received[row, head, count:most].any()


def test_capped_logits_never_pass_their_bound():
    generator = torch.Generator().manual_seed(6)
    query = 9 * torch.randn(BATCH, HEADS * GROUP, 2, DIM, generator=generator, dtype=torch.float64)
    counts = [0, 5, 3, 1, 4, 2]
    held = [torch.randn(2, count, DIM, generator=generator, dtype=torch.float64) for count in counts]
    keys, values = torch.randn(2, BATCH, HEADS, 4, DIM, generator=generator, dtype=torch.float64)
    hidden = torch.tensor([[False, False, False, True], [False] * 4])[None, None]
    parts = [(Parts([k for k, _ in held]), Parts([v for _, v in held]))]
    output, lse = attend_capped(query, parts, keys, values, hidden, 0.3, 2.0)
    for place in range(BATCH * HEADS):
        row, head = divmod(place, HEADS)
        own = slice(head * GROUP, (head + 1) * GROUP)
        logits = query[row, own] @ torch.cat([held[place][0], keys[row, head]]).T * 0.3
        logits = 2 * (logits / 2).tanh()
        logits[..., counts[place] :].masked_fill_(hidden[0, 0], -torch.inf)
        torch.testing.assert_close(lse[row, own], logits.logsumexp(dim=-1))
        expected = logits.softmax(dim=-1) @ torch.cat([held[place][1], values[row, head]])
        torch.testing.assert_close(output[row, own], expected)


needs_compiled = pytest.mark.skipif(len(KERNELS) == 1, reason="needs a CPU and numba")


@needs_compiled
@pytest.mark.parametrize("seed", range(40))
def test_compiled_loops_read_whatever_a_cache_may_hold(seed, poisoned):
    """Heads without entries, odd lengths and widths, parts that share nothing, tensors that lie oddly."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype, head_dim = draw.choice(list(TOLERANCE)), draw.choice([16, 32, 48, 64, 80, 112, 128, 144])
    batch, heads, group, tokens = (
        draw.choice([1, 2]),
        draw.choice([1, 3]),
        draw.choice([1, 2, 3, 7]),
        draw.choice([1, 4]),
    )
    lengths = [0, 1, 2, 3, 5, 63, 64, 65, 130, 257]
    held = []
    for _ in range(draw.choice([1, 2, 3])):
        counts = [draw.choice(lengths) for _ in range(batch * heads)]
        cleared = draw.choice([0, 0, 5, 8, head_dim])
        key_names = draw.choices(INTEGERS if cleared else NAMES, k=len(counts))
        held.append(held_of(counts, key_names, draw.choices(NAMES, k=len(counts)), head_dim, dtype, range(cleared)))
    recent = draw.choice([tokens, 20, 130])
    query, held, keys, values, hidden, scaling = inputs_of(held, recent, tokens, batch, group)
    if draw.random() < 0.3:
        keys, values = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (keys, values))
    if draw.random() < 0.3:
        query = query.transpose(2, 3).contiguous().transpose(2, 3)
    if draw.random() < 0.5:
        hidden = (torch.rand(batch, heads * group, tokens, recent * 2) < 0.3)[..., ::2]
        hidden[..., -1] = False
    check(query, held, keys, values, hidden, scaling, [compiled])


@needs_compiled
def test_many_queries_are_left_to_the_definition(monkeypatch):
    torch.manual_seed(0)
    given = inputs_of([held_of([90, 40], ["int4"], ["exact"])], recent=40, tokens=40)
    monkeypatch.setattr(compiled, "MOST_ROWS", 79)
    assert torch.equal(compiled.attend(*given)[0], reference.attend(*given)[0])
    monkeypatch.setattr(compiled, "MOST_ROWS", 80)
    assert not torch.equal(compiled.attend(*given)[0], reference.attend(*given)[0])
    check(*given, kernels=[compiled])


@needs_compiled
def test_what_compiled_loops_cannot_read_is_refused():
    query, held, keys, values, hidden, scaling = inputs_of([held_of([9, 4], ["exact"], ["exact"])])
    with pytest.raises(ValueError, match="pass a mask of type bool"):
        compiled.attend(query, held, keys, values, hidden.int(), scaling)
    with pytest.raises(ValueError, match=r"\['cpu', 'meta'\]: move all of them to one device"):
        compiled.attend(query, held, keys.to("meta"), values, hidden, scaling)


@needs_compiled
def test_on_a_cpu_compiled_loops_run_unless_the_definition_is_asked_for(monkeypatch):
    torch.manual_seed(0)
    given = inputs_of([held_of([90, 40], ["int4"], ["int2"])])
    of_loops, of_definition = compiled.attend(*given)[0], reference.attend(*given)[0]
    assert not torch.equal(of_loops, of_definition)
    assert torch.equal(attend(*given)[0], of_loops)
    monkeypatch.setenv("PIKVPRESS_KERNELS", "reference")
    assert torch.equal(attend(*given)[0], of_definition)


@needs_compiled
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_more_than_rounding(threads):
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(*inputs_of([held_of([900, 3, 0], ["rot3"], ["int4"])]), kernels=[compiled])
    finally:
        torch.set_num_threads(before)


@needs_compiled
def test_queries_that_need_gradients_are_read():
    given = inputs_of([held_of([9, 4], ["exact"], ["exact"])])
    query, keys = given[0].clone().requires_grad_(), given[2].clone().requires_grad_()
    assert torch.equal(attend(query, given[1], keys, *given[3:])[0], attend(*given)[0])


@needs_compiled
def test_what_is_no_number_is_not_lost():
    query, *rest = inputs_of([held_of([9, 4], ["exact"], ["exact"])])
    query[0, 0, 0, 3] = torch.nan
    output, log_sums = compiled.attend(query, *rest)
    assert output[0, 0].isnan().all() and log_sums[0, 0].isnan().all() and output[0, 1:].isfinite().all()
