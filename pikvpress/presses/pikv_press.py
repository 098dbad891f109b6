"""PiKVPress: one budget in bytes, spent on tokens and bits where it reduces the error most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from kvpress.presses.base_press import is_prefilling

from pikvpress import models
from pikvpress.budgets import BYTE_BUDGETS, Budget
from pikvpress.cache import PiKVLayer, codec
from pikvpress.gates import Gates
from pikvpress.presses.router_press import RouterPress
from pikvpress.presses.wrappers import refuse_wrappers
from pikvpress.routing import AUTO


@dataclass
class PiKVPress(RouterPress):
    """Compress a context to a share of its bytes, with fewer tokens in fewer bits.

    The router scores the tokens as in `MoERouterPress`. The number of tokens that each KV head keeps, and their codecs,
    are then chosen so that all heads together fit the budget and the total error measured by calibration is small
    (`pikvpress.budgets.spend_bytes`). It needs a `PiKVCache`, which holds only the kept entries.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Share of the bytes of keys and values to remove, in [0, 1): 0.875 leaves 1/8. Scales and padding count.
    budgets : {"auto", "equal", "fitted"}, default="auto"
        Tokens and codecs of each head. "fitted": according to the error curves in the gates. "equal": the same in every
        head, with the smallest total error according to these curves; without gates, all tokens in as many bits as fit
        the budget, or fewer tokens in 3 bits. "auto": "fitted" if there are gates, otherwise "equal".
    refit : bool or "auto", default="auto"
        Whether values are refitted, see `MoERouterPress`; they also make up for inexact keys.
    decoding : bool, str or Scheduler, default=False
        Whether entries after the context are dropped as well, as they leave the recent window of a `PiKVCache`, so that
        the same share of them stays as of the context, in the codecs of their heads: True by fitted saliency, or by a
        scheduler of `pikvpress.schedulers`, such as "h2o". The cache goes on with it after the press's context manager
        has exited.
    router_type, experts, num_experts, top_k, gates, ...
        See `MoERouterPress`.

    Raises
    ------
    ValueError, TypeError
        See `MoERouterPress`; also during the prefill, if the cache is not a `PiKVCache` or the budget is too small.

    Examples
    --------
    >>> press, cache = PiKVPress(compression_ratio=0.875), PiKVCache()
    >>> pipe(context, question=question, press=press, cache=cache)
    >>> print(cache.nbytes, press.plan)
    """

    known_budgets: ClassVar[Mapping[str, type[Budget]]] = BYTE_BUDGETS

    def _refuse_wrappers(self) -> None:
        way_out = "use it without a wrapper, or MoERouterPress inside"
        refuse_wrappers(self, "PiKVPress, which stores bytes in a PiKVCache,", way_out, leaves_rows=False)

    def _wanted(self, found: Gates | None) -> tuple[str, ...]:
        if self.budgets != AUTO:
            return (self.budgets,)
        gates = self._spec.gates_for(found, "fitted")
        fits = isinstance(self._spec.gates, Gates) or self._serves(gates, "fitted")
        return ("fitted",) if fits else ("equal",)

    def forward_hook(self, module: models.Attention, input: list[torch.Tensor], kwargs: dict, output: list) -> list:
        """Compress a layer of a `PiKVCache` after its attention, unless it has a sliding window."""
        if self._later.begun:  # another press is responsible for the prompt
            return output
        cache = kwargs.get("past_key_values")
        cached = None if cache is None else cache.layers[module.layer_idx]
        if not isinstance(cached, PiKVLayer):
            raise ValueError(
                f"PiKVPress stores bytes, which a {type(cache).__name__} cannot hold: call the model "
                "with past_key_values=PiKVCache(), or the pipeline with cache=PiKVCache()"
            )
        hidden_states = kwargs["hidden_states"]
        prefilling = is_prefilling(kwargs["cache_position"], hidden_states.shape[1])
        if not prefilling or models.is_sliding(module) or self.compression_ratio == 0:
            return output
        layer = self._input(module, hidden_states, cached.keys, cached.values, output[1], kwargs)
        with self._record.press.span(layer.keys.device):
            (kind,) = self._router_in(module).budgets
            (decision,) = self._decide(layer, kind)
            assert decision.codecs is not None
            key_codecs, value_codecs = ([codec(pair[side]) for pair in decision.codecs] for side in (0, 1))
            cached.pack(decision.mask(), key_codecs, value_codecs, window=0, values=decision.layer.values)
        self._record.selected(decision, cached.nbytes)
        return output
