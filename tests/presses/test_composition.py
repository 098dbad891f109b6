"""MoERouterPress inside kvpress's wrappers, with every router; tests check what is kept, not just that it runs."""

import pytest
import torch
from kvpress import (
    AdaKVPress,
    BlockPress,
    ChunkKVPress,
    ChunkPress,
    ComposedPress,
    CriticalAdaKVPress,
    CriticalKVPress,
    DecodingPress,
    DMSPress,
    KeyRerotationPress,
    KnormPress,
    MergingPress,
    PerLayerCompressionPress,
    PrefillDecodingPress,
    StreamingLLMPress,
    ThinKPress,
)
from kvpress.utils import compute_n_kept
from transformers import DynamicCache

from pikvpress import MoERouterPress, models
from pikvpress.routers import ROUTERS
from tests.helpers import kept_positions, prefill, recorded_scores, top

pytestmark = pytest.mark.parametrize("router", ROUTERS)


@pytest.fixture
def full(llama, ids):
    """Return the layers of the full cache."""
    return prefill(llama, ids).layers


def routed(ratio, router):
    return MoERouterPress(ratio, router_type=router)


def masked(model, layer):
    """Return which keys are masked in a layer, bool, shape (heads, keys)."""
    _, heads, positions = model.model.layers[layer].self_attn.masked_key_indices
    mask = torch.zeros(2, 300, dtype=torch.bool)
    mask[heads, positions] = True
    return mask


def test_adakv_masks_the_lowest_scores_of_all_heads_above_each_heads_floor(llama, ids, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, AdaKVPress(routed(0.6, router), alpha_safeguard=0.3))
    for layer in range(2):
        assert cache.layers[layer].keys.shape[2] == 300
        mask = masked(llama, layer)
        assert mask.sum() == 2 * (300 - 120)
        floor = scores[layer][0][0].topk(36, dim=-1).indices
        assert not mask.gather(1, floor).any()
        safe = scores[layer][0][0].scatter(1, floor, torch.inf)
        assert safe[mask].max() <= safe[~mask].min()


def test_criticalkv_keeps_our_best_half_and_fills_up_by_projected_values(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, CriticalKVPress(routed(0.6, router)))
    for layer in range(2):
        positions = kept_positions(cache.layers[layer].values, full[layer].values)
        assert positions.shape == (1, 2, 120)
        kept = torch.zeros(1, 2, 300, dtype=torch.bool).scatter(2, positions, True)
        first = scores[layer][0].topk(60, dim=-1).indices
        assert kept.gather(2, first).all()
        weighed = (scores[layer][0] + 1e-4) * CriticalKVPress.vwl1norm(
            full[layer].values, llama.model.layers[layer].self_attn
        )
        weighed = weighed.scatter(2, first, torch.inf)
        assert (top(weighed, 120) == positions.sort(dim=-1).values).all()


def test_merging_folds_what_we_evict_into_what_we_keep(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, MergingPress(routed(0.6, router), similarity_threshold=0.0))
    first = cache.layers[0]
    positions = kept_positions(first.keys, full[0].keys)
    assert (positions.sort(dim=-1).values == top(scores[0][0], 120)).all()
    before = full[0].values.gather(2, positions.unsqueeze(-1).expand_as(first.values))
    merged = (first.values != before).any(dim=-1)
    assert merged.any() and not merged.all()


def test_criticaladakv_masks_as_many_and_spares_our_best(llama, ids, router):
    with recorded_scores() as scores:
        prefill(llama, ids, CriticalAdaKVPress(routed(0.6, router)))
    for layer in range(2):
        mask = masked(llama, layer)
        assert mask.sum() == 2 * (300 - 120)
        assert not mask.gather(1, scores[layer][0][0].topk(24, dim=-1).indices).any()


def test_perlayer_gives_each_layer_its_ratio(llama, ids, full, router):
    press = routed(0.5, router)
    with recorded_scores() as scores:
        cache = prefill(llama, ids, PerLayerCompressionPress(press, [0.2, 0.7]))
    for layer, kept in enumerate((240, 90)):
        positions = kept_positions(cache.layers[layer].values, full[layer].values)
        assert torch.equal(positions, top(scores[layer][0], kept))
    assert press.compression_ratio == 0.5


def test_composed_with_think_keeps_our_rows_and_clears_channels(llama, ids, full, router):
    press = ComposedPress([routed(0.3, router), ThinKPress(key_channel_compression_ratio=0.25)])
    with recorded_scores() as scores:
        cache = prefill(llama, ids, press)
    for layer in range(2):
        positions = kept_positions(cache.layers[layer].values, full[layer].values)
        assert torch.equal(positions, top(scores[layer][0], compute_n_kept(300, 0.3)))
        cleared = (cache.layers[layer].keys == 0).all(dim=2)
        assert (cleared.sum(dim=-1) == 4).all()
    assert press.compression_ratio == pytest.approx(1 - 0.7 * 0.875)


@pytest.mark.parametrize("first", [True, False])
def test_composed_with_knorm_in_either_order(llama, ids, full, router, first):
    ours, norm = routed(0.3, router), KnormPress(0.2)
    with recorded_scores() as scores:
        cache = prefill(llama, ids, ComposedPress([ours, norm] if first else [norm, ours]))
    for layer in range(2):
        positions = kept_positions(cache.layers[layer].values, full[layer].values).sort(dim=-1).values
        short = full[layer].keys.norm(dim=-1)
        if first:
            ours_kept = top(scores[layer][0], 210)
            expected = ours_kept.gather(2, top(-short.gather(2, ours_kept), 168))
        else:
            norm_kept = (-short).topk(240, dim=-1).indices
            expected = norm_kept.gather(2, top(scores[layer][0], 168)).sort(dim=-1).values
        assert torch.equal(positions, expected)
    weights = torch.tensor(ours.get_stats()["layer_stats"][0]["expert_weights"])
    if not first:  # after pruning, positions are unknown, so Compactor and SnapKV are skipped
        assert (weights[:, [0, 2]] == 0).all()


def test_composed_with_streaming_llm_finds_sinks_and_recent_tokens_where_they_are(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, ComposedPress([routed(0.3, router), StreamingLLMPress(0.5)]))
    for layer in range(2):
        ours = top(scores[layer][0], 210)
        positions = kept_positions(cache.layers[layer].values, full[layer].values).sort(dim=-1).values
        assert torch.equal(positions, torch.cat([ours[..., :4], ours[..., -101:]], dim=-1))


def test_chunk_keeps_the_best_of_every_chunk(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, ChunkPress(routed(0.5, router), chunk_length=128))
    for layer in range(2):
        parts = [
            start + top(part, compute_n_kept(part.shape[-1], 0.5))
            for start, part in zip((0, 128, 256), scores[layer], strict=True)
        ]
        positions = kept_positions(cache.layers[layer].values, full[layer].values).sort(dim=-1).values
        assert torch.equal(positions, torch.cat(parts, dim=-1))


def test_chunkkv_keeps_whole_chunks_of_the_highest_mass(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, ChunkKVPress(routed(0.5, router), chunk_length=20))
    for layer in range(2):
        mass = scores[layer][0].sum(dim=1).view(15, 20).mean(dim=-1)
        chunks = mass.topk(7).indices.sort().values
        expected = (chunks[:, None] * 20 + torch.arange(20)).flatten()
        assert torch.equal(kept_positions(cache.layers[layer].values, full[layer].values)[0, 0], expected)


def test_block_prunes_block_by_block(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, BlockPress(routed(0.5, router), block_size=64))
    for layer in range(2):
        kept = torch.arange(150).expand(1, 2, -1)
        for start, score in zip(range(150, 300, 64), scores[layer], strict=True):
            block = torch.arange(start, min(start + 64, 300)).expand(1, 2, -1)
            kept = torch.cat([kept, block], dim=-1).gather(2, score.topk(150, dim=-1).indices)
        positions = kept_positions(cache.layers[layer].values, full[layer].values)
        assert torch.equal(positions.sort(dim=-1).values, kept.sort(dim=-1).values)


def test_key_rerotation_moves_our_keys_to_the_front(llama, ids, full, router):
    with recorded_scores() as scores:
        cache = prefill(llama, ids, KeyRerotationPress(routed(0.5, router)))
    rotary = llama.model.rotary_emb
    for layer in range(2):
        positions = top(scores[layer][0], 150)
        assert torch.equal(kept_positions(cache.layers[layer].values, full[layer].values), positions)
        head = full[layer].keys[:, :1].gather(2, positions[:, :1, :, None].expand(-1, -1, -1, 16))
        old_cos, old_sin = rotary(head, positions[:, 0])
        new_cos, new_sin = rotary(head, torch.arange(150)[None])
        moved = models.rotate(models.rotate(head, old_cos, -old_sin), new_cos, new_sin)
        torch.testing.assert_close(cache.layers[layer].keys[:, :1], moved, atol=1e-4, rtol=1e-4)


def test_decoding_shrinks_the_cache_to_its_target_in_order(llama, ids, full, router):
    press = DecodingPress(routed(0.0, router), compression_interval=10, target_size=200, hidden_states_buffer_size=10)
    cache = DynamicCache()
    with recorded_scores() as scores, press(llama):
        llama.generate(ids, past_key_values=cache, max_new_tokens=11, do_sample=False)
    for layer in range(2):
        assert cache.layers[layer].keys.shape[2] == 200
        assert scores[layer][0].shape == (1, 2, 310)
        old = top(scores[layer][0], 200)
        context = old[0, 0][old[0, 0] < 300]
        kept = cache.layers[layer].values[:, :1, : len(context)]
        assert torch.equal(kept_positions(kept, full[layer].values[:, :1])[0, 0], context)


def test_prefill_and_decoding_each_do_their_part(llama, ids, router):
    decoding = DecodingPress(KnormPress(), compression_interval=4, target_size=100)
    for press in (
        PrefillDecodingPress(routed(0.5, router), decoding),
        PrefillDecodingPress(KnormPress(0.5), DecodingPress(routed(0.0, router), 4, 100)),
    ):
        cache = DynamicCache()
        lengths = []

        def count(module, args, kwargs, output, cache=cache, lengths=lengths):
            lengths.append(cache.get_seq_length(0))

        handle = llama.model.register_forward_hook(count, with_kwargs=True)
        with press(llama):
            llama.generate(ids, past_key_values=cache, max_new_tokens=6, do_sample=False)
        handle.remove()
        assert lengths == [150, 151, 152, 153, 100, 101]


def test_dms_masks_exactly_what_scores_below_its_threshold(llama, ids, router):
    with recorded_scores() as scores:
        press = DMSPress(routed(0.0, router), threshold=2e-3, sliding_window_size=64)
        prefill(llama, ids, press)
    for layer in range(2):
        low = scores[layer][0][0] < 2e-3
        low[:, -64:] = False
        assert torch.equal(masked(llama, layer), low)
    assert 0.1 < press.compression_ratio < 0.9
    assert press.press.get_stats()["layer_stats"][0]["tokens_asked"] == 300  # a threshold requests no number of tokens
