"""PiKVPress: one budget in bytes, spent on tokens and bits where it removes most error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from kvpress.presses.base_press import is_prefilling
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache import PiKVLayer, codec
from pikvpress.gates import Gates
from pikvpress.kernels.compact import highest
from pikvpress.presses.moe_router_press import AUTO, BUDGETS, MoERouterPress
from pikvpress.presses.wrappers import refuse_wrappers
from pikvpress.spending import Heads, Spending, spend_fitted, spend_uniform


@dataclass
class PiKVPress(MoERouterPress):
    """Compress a context to a share of its bytes: fewer tokens, in fewer bits.

    The router scores the tokens as in `MoERouterPress`. How many of them each KV head keeps, and in which codecs, is
    then chosen so that all heads together fit the budget and the error that calibration has measured for them is least
    (`pikvpress.allocators.spend_bytes`). It needs a `PiKVCache`, which holds what is left and nothing else.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Share of the bytes of keys and values to remove, in [0, 1): 0.875 leaves an eighth. Scales and filling count.
    budgets : {"auto", "equal", "fitted"}, default="auto"
        Which tokens and codecs heads keep: "fitted" by the error curves in the gates; "equal" the same in every head,
        int8 or int4 while that alone does it, then fewer tokens in int4; "auto": fitted where there are gates.
    router_type, experts, num_experts, top_k, gates, ...
        As for `MoERouterPress`.

    Raises
    ------
    ValueError, TypeError
        As for `MoERouterPress`; while prefilling, if the cache is no `PiKVCache`, or the budget is too small.

    Examples
    --------
    >>> press, cache = PiKVPress(compression_ratio=0.875), PiKVCache()
    >>> pipe(context, question=question, press=press, cache=cache)
    >>> print(cache.nbytes, press.plan)
    """

    _known_budgets: ClassVar[tuple[str, ...]] = ("auto", "equal", "fitted")

    budgets: str = "auto"
    _spends: str = field(default="equal", init=False, repr=False, compare=False)
    _spending: dict[Any, Spending] = field(default_factory=dict, init=False, repr=False, compare=False)
    _heads: Heads | None = field(default=None, init=False, repr=False, compare=False)

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model is supported, and see what there is to store."""
        models.check_supported(model)
        layers = models.attention_layers(model)
        self._heads = Heads(len(layers), models.num_key_value_heads(layers[0]), layers[0].head_dim, 0, model.dtype)
        super().post_init_from_model(model)

    def _refuse_wrappers(self) -> None:
        way_out = "use it without a wrapper, or MoERouterPress inside"
        refuse_wrappers(self, "PiKVPress, which stores bytes in a PiKVCache,", way_out, leaves_rows=False)

    @property
    def _needed(self) -> str:
        return self._spends

    def _adopt_gates(self, first: models.Attention) -> None:
        self._spending.clear()
        self._spends = "equal" if self.budgets == "equal" else "fitted"
        if self.budgets == AUTO and self._given is None and not self._fits("fitted", self._gates_for(first)):
            self._spends = "equal"
        super()._adopt_gates(first)

    def _fits(self, kind: str, gates: Gates | None) -> bool:
        return super()._fits(kind, gates) and (kind != "fitted" or gates.codec_curves is not None)  # type: ignore[union-attr]

    def forward_hook(self, module: models.Attention, input: list[torch.Tensor], kwargs: dict, output: list) -> list:
        """Compress a layer of a `PiKVCache` after its attention; one that slides is left alone."""
        cache = kwargs.get("past_key_values")
        layer = None if cache is None else cache.layers[module.layer_idx]
        if not isinstance(layer, PiKVLayer):
            raise ValueError(
                f"PiKVPress stores bytes, which a {type(cache).__name__} cannot hold: give the model "
                "past_key_values=PiKVCache(), or the pipeline cache=PiKVCache()"
            )
        hidden_states = kwargs["hidden_states"]
        prefilling = is_prefilling(kwargs["cache_position"], hidden_states.shape[1])
        if not prefilling or models.is_sliding(module) or self.compression_ratio == 0:
            return output
        keys, values = layer.keys, layer.values
        scores = self.score(module, hidden_states, keys, values, output[1], kwargs | {BUDGETS: self._spends})
        with self._recorder.press.span(keys.device):
            spending = self._spent(keys.shape[2])
            counts, codecs = spending.counts[module.layer_idx], spending.codecs[module.layer_idx]
            kept = highest(scores, counts.to(scores.device))
            key_codecs, value_codecs = ([codec(pair[side]) for pair in codecs] for side in (0, 1))
            layer.pack(kept, key_codecs, value_codecs, window=0)
        self._recorder.selected(module.layer_idx, counts.tolist(), layer.nbytes, codecs)
        return output

    def _kind_for_others(self) -> str:
        raise ValueError(
            "PiKVPress cannot be used inside another press: it chooses bytes, not scores; use MoERouterPress there"
        )

    def _share_removed(self, num_keys: int) -> float:
        """Return the share of tokens that the budget leaves no room for, by which experts are compared."""
        if self.compression_ratio == 0:
            return 0.0
        spending = self._spent(num_keys)
        kept = spending.counts[self._layers].float().mean() / num_keys
        return float(1 - kept)

    def _spent(self, num_keys: int) -> Spending:
        """Return what the budget buys for a context of this length."""
        assert self._heads is not None
        key = (num_keys, self.compression_ratio)
        if key not in self._spending:
            heads = replace(self._heads, num_keys=num_keys)
            if self._spends == "fitted":
                assert self._gates is not None
                spending = spend_fitted(self._gates, heads, self.compression_ratio, self._layers)
            else:
                spending = spend_uniform(heads, self.compression_ratio, self._layers)
            self._spending = {key: spending}
        return self._spending[key]
