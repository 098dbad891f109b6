"""Compare the scores of our presses with those of kvpress's."""

from __future__ import annotations

import kvpress
import torch

from pikvpress import experts
from pikvpress.experts import LayerView, make_experts
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of


def scores_of(press, *call):
    torch.manual_seed(0)  # for the random sketches
    with torch.no_grad():
        return press.score(*call)


def check_scores(name, settings, architecture, ids):
    """Check that a streamed press gives kvpress's scores, on the module and through a view of it."""
    module, hidden, *rest = call_of(make_tiny(architecture), torch.cat([ids, ids.flip(1)]))
    theirs = scores_of(getattr(kvpress, name)(0.5, **settings), module, hidden, *rest)
    ours = getattr(experts, f"Streamed{name}")(0.5, **settings)
    for view in (module, LayerView(module, hidden)):
        torch.testing.assert_close(scores_of(ours, view, hidden, *rest), theirs, atol=1e-5, rtol=1e-5)


def check_needs(name, kind):
    """Check that the expert of this name is our press, and that its needs are those of kvpress's press."""
    (ours,) = make_experts([name], None)
    assert type(ours.press) is getattr(experts, f"Streamed{kind}")
    (theirs,) = make_experts([getattr(kvpress, kind)()], None)
    needs = ("min_tokens", "reads_hidden_states", "aligned", "positional", "random")
    assert [getattr(theirs, need) for need in needs] == [getattr(ours, need) for need in needs]
