import math

import pytest
import torch

from pikvpress import models
from pikvpress.experts import LayerInput, LayerView
from pikvpress.experts.probes import probe_queries
from pikvpress.routers.feature_names import STATISTICS, feature_names
from pikvpress.routing import features
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of


@pytest.fixture
def call(llama, ids):
    return call_of(llama, ids)


def collect(call, kept, available=(0, 1), num_experts=2):
    module, hidden, keys, values, _, kwargs = call
    with torch.no_grad():
        layer = LayerInput(module, hidden, keys, values, kwargs=kwargs)
        return features.collect(layer, kept, available, num_experts)


def kept_mask(*spans):
    """Return a mask of which of 300 keys each expert keeps, the same in both heads."""
    mask = torch.zeros(1, 2, len(spans), 300, dtype=torch.bool)
    for expert, (start, stop) in enumerate(spans):
        mask[:, :, expert, start:stop] = True
    return mask


def test_probes_are_queries_of_the_context_moved_after_it(call):
    module, hidden, keys, _, _, kwargs = call
    with torch.no_grad():
        probes = probe_queries(LayerView(module, hidden), hidden, keys, kwargs, 48, 16)
        assert probes.shape == (1, 4, 64, 16)
        last = models.queries_before_rotation(module, hidden)[:, :, -1:]
        cos, sin = module.rotary_emb(last, torch.tensor([[363]]))
    torch.testing.assert_close(probes[:, :, -1:], models.rotate(last, cos, sin))


@pytest.mark.parametrize("length", [1, 5, 16, 17, 40, 64, 65])
def test_short_contexts_have_fewer_probes(llama, ids, length):
    module, hidden, keys, _, _, kwargs = call_of(llama, ids[:, :length])
    with torch.no_grad():
        probes = probe_queries(LayerView(module, hidden), hidden, keys, kwargs, 48, 16)
    assert probes.shape[2] == min(length, 64)


def test_features_are_named_in_order(call):
    names = feature_names(["a", "b"])
    assert names[:4] == ("error/a", "error/b", "missed/a", "missed/b") and names[4:] == STATISTICS
    features = collect(call, kept_mask((0, 150), (150, 300)))
    assert features.values.shape == (1, 2, len(names))
    torch.testing.assert_close(features.mass.sum(dim=-1), torch.ones(1, 2))
    assert features.values[..., names.index("context_length")].tolist() == [[pytest.approx(math.log2(300) / 10)] * 2]
    assert features.values[..., names.index("keep_share")].tolist() == [[pytest.approx(-1)] * 2]
    sink = features.mass[..., :4].sum(dim=-1)
    torch.testing.assert_close(features.values[..., names.index("sink_mass")], sink)
    entropy = torch.distributions.Categorical(features.mass).entropy() / math.log(300)
    torch.testing.assert_close(features.values[..., names.index("attention_entropy")], entropy)


def test_key_statistics_by_hand(call):
    keys = call[2]
    names = feature_names(["a", "b"])
    values = collect(call, kept_mask((0, 150), (150, 300))).values
    coherence = torch.nn.functional.normalize(keys, dim=-1).mean(dim=2).norm(dim=-1)
    torch.testing.assert_close(values[..., names.index("key_coherence")], coherence)
    norms = keys.norm(dim=-1)
    spread = norms.std(dim=-1, correction=0) / norms.mean(dim=-1)
    torch.testing.assert_close(values[..., names.index("key_norm_spread")], spread)


def test_an_expert_that_keeps_more_errs_and_misses_less(call):
    values = collect(call, kept_mask((0, 290), (0, 10))).values
    assert (values[..., 0] < values[..., 1]).all()
    assert (values[..., 2] < values[..., 3]).all()
    torch.testing.assert_close(values[..., :2].sum(dim=-1), torch.zeros(1, 2), atol=1e-5, rtol=0)


def test_an_expert_that_sits_out_has_no_features(call):
    values = collect(call, kept_mask((0, 290), (0, 10)), available=(0, 2), num_experts=3).values
    names = feature_names(["a", "b", "c"])
    assert (values[..., names.index("error/b")] == 0).all() and (values[..., names.index("missed/b")] == 0).all()
    assert (values[..., names.index("error/c")] > 0).all()


def test_gemma_probes_use_the_rotation_of_full_attention(ids):
    model = make_tiny("gemma3")
    module, hidden, keys, _, _, kwargs = call_of(model, ids)
    with torch.no_grad():
        probes = probe_queries(LayerView(module, hidden), hidden, keys, kwargs, 48, 16)
        last = models.queries_before_rotation(module, hidden)[:, :, -1:]
        cos, sin = model.model.rotary_emb(last, torch.tensor([[363]]), "full_attention")
    torch.testing.assert_close(probes[:, :, -1:], models.rotate(last, cos, sin))
