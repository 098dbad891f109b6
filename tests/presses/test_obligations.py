"""What kvpress's wrappers require of a scorer, each with the failure that would follow otherwise."""

import dataclasses

import pytest
import torch
from kvpress import (
    AdaKVPress,
    BlockPress,
    ChunkPress,
    ComposedPress,
    CriticalAdaKVPress,
    DecodingPress,
    DMSPress,
    KnormPress,
    PerLayerCompressionPress,
    QFilterPress,
    ScorerPress,
)

from pikvpress import MoERouterPress
from tests.conftest import make_tiny
from tests.helpers import prefill, recorded_scores


def test_1_the_ratio_is_a_real_init_field_of_a_scorer_dataclass():
    names = [field.name for field in dataclasses.fields(MoERouterPress) if field.init]
    assert names[0] == "compression_ratio" and issubclass(MoERouterPress, ScorerPress)
    PerLayerCompressionPress(MoERouterPress(0.5), [0.5, 0.5])


def test_2_routing_happens_in_score_which_returns_a_fresh_float_tensor(llama, ids):
    class Sharing(KnormPress):
        given = None

        def score(self, module, hidden_states, keys, values, attentions, kwargs):
            Sharing.given = super().score(module, hidden_states, keys, values, attentions, kwargs)
            return Sharing.given

    press = MoERouterPress(0.5, experts=[Sharing()])
    with recorded_scores() as scores:
        prefill(llama, ids, AdaKVPress(press))  # fills the scores in place
    assert scores[1][0].is_floating_point()
    assert Sharing.given.abs().max() < 1e6, "AdaKV wrote into the expert's own scores"
    assert press.get_stats()["layer_stats"][0]["tokens_kept"] is None


def test_3_experts_score_at_the_ratio_that_the_wrapper_set(llama, ids):
    class Watching(KnormPress):
        def score(self, *args, **kwargs):
            seen.append(self.compression_ratio)
            return super().score(*args, **kwargs)

    seen: list[float] = []
    expert = Watching(compression_ratio=0.9)
    prefill(llama, ids, PerLayerCompressionPress(MoERouterPress(0.1, experts=[expert]), [0.25, 0.25]))
    assert seen == [0.25, 0.25] and expert.compression_ratio == 0.9


def test_4_scores_mean_the_same_in_every_head_whatever_the_experts_scales(llama, ids):
    class Scaled(KnormPress):
        def score(self, *args, **kwargs):
            scale = torch.tensor([1e-6, 1e6]).view(1, 2, 1)
            return super().score(*args, **kwargs) * scale

    with recorded_scores() as plain:
        prefill(llama, ids, AdaKVPress(MoERouterPress(0.5, experts=["knorm", "keydiff"])))
    with recorded_scores() as scaled:
        prefill(llama, ids, AdaKVPress(MoERouterPress(0.5, experts=[Scaled(), "keydiff"])))
    torch.testing.assert_close(scaled[1][0].sum(dim=-1), torch.ones(1, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled[1][0], plain[1][0])


def test_4_adakv_over_the_router_gives_heads_different_budgets(ids):
    model = make_tiny()
    with torch.no_grad():  # one head with sharp attention, one with flat
        model.model.layers[1].self_attn.k_proj.weight[:16] *= 10
        model.model.layers[1].self_attn.k_proj.weight[16:] *= 0.02
    prefill(model, ids, AdaKVPress(MoERouterPress(0.5)))
    masked = model.model.layers[1].self_attn.masked_key_indices
    evicted = torch.bincount(masked[1], minlength=2)
    assert evicted.sum() == 300
    assert evicted[0] > evicted[1] + 30, "the head with sharp attention needs fewer keys"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda press: ChunkPress(press, chunk_length=100),  # full position embeddings but sliced states
        lambda press: BlockPress(press, block_size=64),  # hidden states gathered per head
        lambda press: ComposedPress([KnormPress(0.2), press]),  # keys that are already pruned
        lambda press: DMSPress(press, threshold=1e-3, sliding_window_size=20, decoding=True),  # new tokens only
        lambda press: DecodingPress(press, compression_interval=8, target_size=250),  # buffered states but all keys
    ],
    ids=["chunk", "block", "composed", "dms", "decoding"],
)
def test_5_hidden_states_may_be_those_of_other_tokens_than_the_keys(llama, ids, wrap):
    with recorded_scores() as scores, wrap(MoERouterPress(0.5))(llama):
        llama.generate(ids, max_new_tokens=12, do_sample=False)
    assert scores and all(score.isfinite().all() for parts in scores.values() for score in parts)


def test_6_experts_learn_the_model_from_wrappers_that_pass_it_on_and_say_so_where_they_do_not(llama, ids):
    class Learning(QFilterPress):
        def post_init_from_model(self, model):
            self.learned = True

        def score(self, module, hidden_states, keys, values, attentions, kwargs):
            assert self.learned
            return keys.norm(dim=-1)

    prefill(llama, ids, AdaKVPress(MoERouterPress(0.5, experts=[Learning()])))
    for wrap in (CriticalAdaKVPress, lambda press: PerLayerCompressionPress(press, [0.5, 0.5])):
        prefill(llama, ids, wrap(MoERouterPress(0.5)))  # initialised lazily
        with pytest.raises(ValueError, match=r"call press\.post_init_from_model"):
            prefill(llama, ids, wrap(MoERouterPress(0.5, experts=[Learning()])))


def test_7_kept_entries_stay_in_position_order_and_str_is_for_people(llama, ids):
    cache = prefill(llama, ids, MoERouterPress(0.5))
    full = prefill(llama, ids)
    for one, other in zip(cache.layers, full.layers, strict=True):
        where = (one.values.unsqueeze(3) == other.values.unsqueeze(2)).all(dim=-1).int().argmax(dim=-1)
        assert (where.diff(dim=-1) > 0).all()
    assert "_router" not in str(MoERouterPress(0.5))
