"""Refitting the values of one layer."""

from __future__ import annotations

import torch

from pikvpress.cache import codec
from pikvpress.experts import LayerInput
from pikvpress.refit.layer import refit
from pikvpress.refit.references import references
from tests.experts.test_layer_view import call_of


def attended(layer, queries, keys, values):
    """Return the attention output of one head."""
    return (queries @ keys.T * layer.view.scaling).softmax(dim=-1) @ values


def kept_of(layer, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(layer.keys.shape[:3], generator=generator) < share
    kept[:, :, 0] = True
    return kept


def distance(layer, kept, values, codecs=None):
    """Return the distance between reference outputs over the kept and over all entries, summed over heads."""
    heads, total = layer.keys.shape[1], torch.zeros(())
    queries = references(layer, None).unflatten(1, (heads, -1)).flatten(2, 3)[0]
    for head in range(heads):
        entries = kept[0, head].nonzero()[:, 0]
        keys = layer.keys[0, head, entries]
        if codecs is not None:
            keys = codecs[head].decode(codecs[head].encode(keys, True), *keys.shape, keys.dtype, True)
        whole = attended(layer, queries[head], layer.keys[0, head], layer.values[0, head])
        total += (attended(layer, queries[head], keys, values[0, head, entries]) - whole).norm()
    return total


def test_kept_values_stand_in_for_removed_ones_which_stay_as_they_are(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    kept = kept_of(layer, 0.4)
    with torch.no_grad():
        found = refit(layer, kept, None, None)
        assert distance(layer, kept, found) < 0.5 * distance(layer, kept, layer.values)
    assert torch.equal(found[~kept], layer.values[~kept]) and not torch.equal(found[kept], layer.values[kept])


def test_they_also_make_up_for_inexact_keys(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    kept, codecs = torch.ones(layer.keys.shape[:3], dtype=torch.bool), [codec("rot2")] * layer.keys.shape[1]
    with torch.no_grad():
        found = refit(layer, kept, codecs, None)
        assert distance(layer, kept, found, codecs) < 0.6 * distance(layer, kept, layer.values, codecs)


def test_nothing_changes_where_nothing_is_missing(llama, ids):
    layer = LayerInput(*call_of(llama, ids))
    kept = kept_of(layer, 0.5)
    kept[:, 0] = True
    with torch.no_grad():
        found = refit(layer, kept, [codec("exact")] * layer.keys.shape[1], None)
    assert torch.equal(found[:, 0], layer.values[:, 0]) and not torch.equal(found[:, 1], layer.values[:, 1])


def test_rows_of_a_batch_are_refitted_alone(llama, ids):
    layer = LayerInput(*call_of(llama, ids.expand(2, -1)))
    kept = kept_of(layer, 0.5)
    with torch.no_grad():
        both = refit(layer, kept, None, None)
        alone = LayerInput(*call_of(llama, ids))
        torch.testing.assert_close(both[:1], refit(alone, kept[:1], None, None), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both[1:], refit(alone, kept[1:], None, None), atol=1e-5, rtol=1e-4)
