"""The rows of a padded batch, each as if it were alone."""

from __future__ import annotations

import pytest
import torch

from pikvpress import models
from pikvpress.experts import LayerInput, joined, rows_of
from tests.conftest import make_tiny


@pytest.fixture
def batch():
    """Return a layer's input for two rows of 6 entries, made from one sequence of 4 tokens and one of 6."""
    model = make_tiny("llama")
    module = model.model.layers[1].self_attn
    module.rotary_emb = model.model.rotary_emb
    states = torch.randn(2, 2, 6, 16, generator=torch.Generator().manual_seed(0))
    places = torch.arange(6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    kwargs = {
        "attention_mask": mask,
        "cache_position": places,
        "position_ids": places[None],
        "position_embeddings": models.rotary_from(module, states, 0),
    }
    keys = models.rotate(states, *kwargs["position_embeddings"])
    outputs = {"q_proj": torch.randn(2, 6, 64)}
    return states, LayerInput(module, torch.randn(2, 6, 64), keys, keys + 1, torch.rand(2, 4, 6, 6), kwargs, outputs)


def test_rows_have_no_padding_and_begin_at_position_0(batch):
    states, layer = batch
    short, full = rows_of(layer)
    assert (short.index, short.tokens, full.index, full.tokens) == (0, slice(2, 6), 1, slice(0, 6))
    alone = short.layer
    assert torch.equal(alone.hidden_states, layer.hidden_states[:1, 2:])
    assert torch.equal(alone.values, layer.values[:1, :, 2:])
    assert torch.equal(alone.attentions, layer.attentions[:1, :, 2:, 2:])
    assert torch.equal(alone.outputs["q_proj"], layer.outputs["q_proj"][:1, 2:])
    rotation = models.rotary_from(layer.module, states[:, :, :4], 0)
    assert (alone.keys - models.rotate(states[:1, :, 2:], *rotation)).abs().max() < 1e-5
    assert torch.equal(torch.stack(alone.kwargs["position_embeddings"]), torch.stack(rotation))
    assert alone.kwargs["cache_position"].tolist() == [0, 1, 2, 3] and alone.kwargs["attention_mask"] is None
    assert torch.equal(full.layer.keys, layer.keys[1:])


def test_keys_at_the_positions_of_the_row_are_not_moved(batch):
    _, layer = batch
    layer.kwargs["position_ids"] = torch.tensor([[1, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    assert torch.equal(rows_of(layer)[0].layer.keys, layer.keys[:1, :, 2:])


def test_what_rows_keep_is_joined_without_padding(batch):
    rows = rows_of(batch[1])
    kept = [torch.ones(1, 2, 4, dtype=torch.bool), torch.zeros(1, 2, 6, dtype=torch.bool)]
    kept[1][0, 1, 5] = True
    mask = joined(rows, kept, (2, 2, 6))
    assert mask[0].tolist() == [[False, False, True, True, True, True]] * 2
    assert mask[1].nonzero().tolist() == [[1, 5]]


def test_batches_without_padding_have_no_rows(batch):
    _, layer = batch
    layer.kwargs["attention_mask"] = torch.ones(2, 6)
    assert rows_of(layer) is None
    layer.kwargs["attention_mask"] = None
    assert rows_of(layer) is None


@pytest.mark.parametrize(
    ("row", "message"), [([0] * 6, "row 0 of the batch has no tokens"), ([1, 0, 0, 1, 1, 1], "padding between its")]
)
def test_rows_that_cannot_be_compressed_are_named(batch, row, message):
    _, layer = batch
    layer.kwargs["attention_mask"][0] = torch.tensor(row)
    with pytest.raises(ValueError, match=message):
        rows_of(layer)
