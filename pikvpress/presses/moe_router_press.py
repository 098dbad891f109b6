"""MoERouterPress: a gated router blends compression strategies per layer and KV head."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from kvpress import ScorerPress
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.budgets import TOKEN_BUDGETS, Budget
from pikvpress.cache import PiKVLayer
from pikvpress.gates import Gates
from pikvpress.presses.checks import refuse_masked_keys, refuse_static, warn_of_uneven_layers
from pikvpress.presses.router_press import RouterPress
from pikvpress.presses.wrappers import refuse_wrappers
from pikvpress.routing import AUTO

logger = logging.getLogger(__name__)

# Under this name our own hook tells `compress`, in the forward's arguments, which budgets to keep.
BUDGETS = "pikvpress_budgets"


@dataclass
class MoERouterPress(RouterPress, ScorerPress):
    """Choose and blend compression strategies per layer and KV head with a gated router.

    In every layer the experts score the keys; probe queries measure what each expert's own selection would lose, unless
    calibration found that looking at the input does not win; the router turns what is known of each head, and these
    features, into gate weights per KV head; the experts' scores become ranks in [0, 1], are mixed by those weights, and
    the mixed order is given a scale that means the same in every head: what a token there is worth by the error curves
    of the gates, or without gates the measured attention mass. The highest-scoring share of the tokens is kept, in
    position order.

    It is a kvpress press like any other: use it with the pipeline, as a context manager, or inside kvpress's wrappers.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Share of the key-value pairs to remove, in [0, 1). Of n pairs max(1, floor(n · (1 - ratio))) stay, exactly.
    router_type : {"pikv", "base", "topk_balanced", "adaptive", "eplb", "hierarchical", "static"}, default="pikv"
        Which router; see `pikvpress.routers`. What is routed is KV heads, to experts.
    experts : sequence of str or ScorerPress, optional
        Names of registered experts (`pikvpress.available_experts()`), or presses of one's own. By default those of
        the gates, or without gates Compactor, ExpectedAttention, SnapKV, ProbeAttention, KeyDiff and LagKV.
    num_experts : int, optional
        Use only the first so many of `experts`, or of all registered ones if `experts` is not given; gates that know as
        many bring theirs.
    top_k : int, optional
        Most experts blended for a head. By default 4, or fewer if there are fewer experts.
    temperature : float, default=1.0
        Divides the gate's logits: below 1 sharpens the choice, above 1 evens it out.
    cache_aware : bool, default=True
        Whether the "pikv" router sees the budget, the context length and the attention each expert would lose.
    importance_threshold : float, default=0.8
        Gate probability that the experts of a head must reach together, for the "adaptive" router and
        `adaptive_top_k`: higher = more experts.
    adaptive_top_k : bool, default=False
        Let any router use fewer than `top_k` experts for heads whose gate is confident.
    capacity_factor : float, default=1.0
        For the "eplb" router: heads an expert may serve, relative to exact balance; at least 1.
    num_groups : int, default=2
        For the "hierarchical" router: groups that the experts are cut into, in order.
    group_top_k : int, default=1
        For the "hierarchical" router: groups chosen for a head.
    dropout : float, default=0.0
        Only while gates are fitted: share of the head features dropped.
    aux_loss_weight : float, default=0.01
        Only while gates are fitted: weight of the Switch load-balancing loss. `get_stats` reports the loss.
    balance_mode : {"entropy", "variance", "gini"}, default="entropy"
        Only while gates are fitted: the imbalance that the "topk_balanced" router pays for.
    balance_coefficient : float, default=0.01
        Only while gates are fitted: weight of that imbalance.
    gates : str, Path or None, default="auto"
        Fitted gates. "auto": those found by what the model is, in `pikvpress.gates.user_folder()` or shipped with the
        package, if they know the router and the experts. A path: that file, refused for any other model, router or
        experts. Without gates the router uses a deterministic prior, and None asks for it: prior weight of the expert
        (ProbeAttention 2, others 1) / sqrt(measured retained error). Gates bring their experts
        along unless `experts`, or another `num_experts`, is given.
    budgets : {"auto", "equal", "fitted", "pyramid", "adakv", "global"}, default="auto"
        How many tokens each head keeps, of the same total. "auto": fitted in a `PiKVCache`, where there are gates and
        no wrapper that may choose too, else equal. The others: all the same number; shares by the error curves that
        the gates carry; less from layer to layer, as PyramidKV does; by the scores themselves in one pool a layer, as
        AdaKV does, or in one for all layers.
        All but "equal" and "pyramid" leave heads of different lengths, which transformers' own caches cannot hold:
        removed entries are then masked, as kvpress's AdaKVPress does it, and no bytes are saved but in a `PiKVCache`.

    Raises
    ------
    ValueError, TypeError
        For settings out of range, unknown names, gates fitted for something else, or a wrapper that would undo what is
        decided, before the model is touched; while prefilling, for a padded batch, a static cache, a context shorter
        than the experts can score, and NaN or infinite numbers. Hooks are then removed, and the cache is left empty.

    Examples
    --------
    >>> press = MoERouterPress(compression_ratio=0.5)
    >>> with press(model):
    ...     model.generate(**inputs)
    >>> print(press.plan)
    """

    known_budgets: ClassVar[Mapping[str, type[Budget]]] = TOKEN_BUDGETS

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model is supported, the gates are its own, and no wrapper undoes what is decided."""
        super().post_init_from_model(model)
        if self.budgets != AUTO and TOKEN_BUDGETS[self.budgets].uneven_layers:
            warn_of_uneven_layers(self, model)

    def _refuse_wrappers(self) -> None:
        if self.budgets not in (AUTO, "equal"):
            what, way_out = f"MoERouterPress(budgets={self.budgets!r})", "use it without a wrapper, or budgets='equal'"
            refuse_wrappers(self, what, way_out, leaves_rows=TOKEN_BUDGETS[self.budgets].leaves_rows)

    def _wanted(self, found: Gates | None) -> tuple[str, ...]:
        if self.budgets != AUTO:
            return (self.budgets,)
        return ("equal", "fitted") if self._alone else ("equal",)

    def forward_hook(self, module: models.Attention, input: list[torch.Tensor], kwargs: dict, output: list) -> list:
        """Compress a layer after its attention, unless it or its cache slides: such layers are left alone."""
        cache = kwargs.get("past_key_values")
        if cache is None:
            raise ValueError("there is no cache to compress: call the model with use_cache=True or past_key_values=...")
        cache_layer = cache.layers[module.layer_idx]
        if models.is_sliding(module, cache_layer):
            if not models.is_sliding(module):
                logger.warning_once(  # type: ignore[attr-defined]
                    "the cache keeps a sliding window, which is left alone: to compress it, pass "
                    "past_key_values=DynamicCache() to the model"
                )
            return output
        refuse_static(cache)
        kind = self._kind_in(module, cache_layer)
        if TOKEN_BUDGETS[kind].waits and isinstance(cache_layer, PiKVLayer) and cache_layer.packs:
            raise ValueError(
                f"{kind} budgets are known after the last layer, and this PiKVCache packs each layer before the next: "
                "use a PiKVCache() without codecs, or budgets='fitted' or 'adakv'"
            )
        return super().forward_hook(module, input, kwargs | {BUDGETS: kind}, output)

    def _kind_in(self, module: models.Attention, cache_layer: Any) -> str:
        """Return the budgets that are kept in a cache's layer; inside a wrapper, which may choose too, equal ones."""
        if self.budgets != AUTO:
            return self.budgets
        fits = self._alone and isinstance(cache_layer, PiKVLayer) and "fitted" in self._router_in(module).budgets
        return "fitted" if fits else "equal"

    def _kind_for_others(self) -> str:
        """Return the budgets that are kept where another press selects, or removes by itself."""
        if self.budgets not in (AUTO, "equal"):
            raise ValueError(
                f"{self.budgets} budgets cannot be kept inside another press, which selects by itself: use "
                "MoERouterPress without a wrapper, or budgets='equal'"
            )
        return "equal"

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the blended scores of a layer.

        The hidden states may be those of other tokens than the keys: fewer while decoding, more after a press that
        pruned. Experts that cannot score the input at hand then sit out, and the others share their weight.

        Returns
        -------
        torch.Tensor
            What a key is worth, float32, shape (batch, kv_heads, keys), higher = keep: with gates that carry error
            curves the nats by which predictions would change without it, else its estimated share of attention.

        Raises
        ------
        ValueError
            For a padded batch, no keys, no expert that can score the input, a NaN score, or budgets other than equal:
            whoever asks for scores selects by itself.
        """
        kind = self._kind_for_others()
        layer = self._input(module, hidden_states, keys, values, attentions, kwargs)
        with self._record.press.span(keys.device):
            return self._router_in(module).score(layer, kind, self.compression_ratio).scores

    def compress(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept keys and values, shape (batch, kv_heads, kept, head_dim), in position order.

        With budgets that differ between heads all keys and values are returned, and those removed are masked.
        """
        if self.compression_ratio == 0:
            return keys, values
        way_out = "let one press both choose and remove, or wrap MoERouterPress in the head-wise press"
        refuse_masked_keys(module, way_out)
        kind = kwargs.get(BUDGETS) or self._kind_for_others()
        layer = self._input(module, hidden_states, keys, values, attentions, kwargs)
        with self._record.press.span(keys.device):
            for decision in self._router_in(module).rank(layer, kind, self.compression_ratio):
                decided = decision.layer
                if decision.is_ragged:
                    decided.module.masked_key_indices = decision.removed()
                    nbytes = decided.keys.nbytes + decided.values.nbytes
                else:
                    keys, values = decision.gathered()
                    nbytes = keys.nbytes + values.nbytes
                self._record.selected(decided.index, decision.head_tokens(), nbytes)
        return keys, values
