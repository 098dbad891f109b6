"""Reference queries: substitutes for the queries that will read the context."""

from __future__ import annotations

import torch

from pikvpress.experts import LayerInput
from pikvpress.experts.probes import after_context, probe_queries

OWN = 64  # queries of the context per head


def references(layer: LayerInput, bank: torch.Tensor | None, own: int = OWN) -> torch.Tensor:
    """Return queries of the context and of calibration, rotated to positions after the context.

    Queries of the context attend to what this context is about, but few of them look far back. Those of calibration
    come from questions, quotations and continuations, which do.

    Parameters
    ----------
    layer : LayerInput
        The layer.
    bank : torch.Tensor, optional
        Queries from calibration before rotation, shape (heads, n, head_dim).
    own : int, default=64
        Number of queries of the context per head, evenly spaced; fewer if there are fewer hidden states.

    Returns
    -------
    torch.Tensor
        float32, shape (batch, heads, queries, head_dim).
    """
    queries = probe_queries(layer.view, layer.hidden_states, layer.keys, layer.kwargs, own, 0)
    if bank is not None:
        more = after_context(layer.view, bank.to(queries).unsqueeze(0), layer.keys, layer.kwargs)
        queries = torch.cat([queries, more.expand(len(queries), -1, -1, -1)], dim=2)
    return queries.float()
