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
from pikvpress.kernels.compact import gather_rows
from pikvpress.presses.checks import refuse_masked_keys, refuse_static, warn_of_uneven_layers
from pikvpress.presses.router_press import RouterPress
from pikvpress.presses.wrappers import refuse_wrappers
from pikvpress.routing import AUTO

logger = logging.getLogger(__name__)

# Under this name in the forward's arguments, our own hook tells `compress` which budgets to use.
BUDGETS = "pikvpress_budgets"


@dataclass
class MoERouterPress(RouterPress, ScorerPress):
    """Choose and blend compression strategies per layer and KV head with a gated router.

    In every layer the experts score the keys. Probe queries measure what each expert's own selection would lose, unless
    calibration found that looking at the input brings no gain. From what is known of each head, and from these
    features, the router computes gate weights per KV head. The experts' scores are converted to ranks in [0, 1] and
    mixed with these weights, and the mixed ranking is converted to a scale that is comparable across heads: the value
    of a token according to the error curves of the gates or, without gates, the measured attention mass. The
    highest-scoring share of the tokens is kept, in position order.

    It is an ordinary kvpress press: use it with the pipeline, as a context manager, or inside kvpress's wrappers.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Share of the key-value pairs to remove, in [0, 1). Of n pairs, exactly max(1, floor(n · (1 - ratio))) are kept.
    router_type : {"pikv", "base", "topk_balanced", "adaptive", "eplb", "hierarchical", "static"}, default="pikv"
        Type of the router, which routes KV heads to experts; see `pikvpress.routers`.
    experts : sequence of str or ScorerPress, optional
        Names of registered experts (`pikvpress.available_experts()`), or your own presses. By default those of the
        gates or, without gates, Compactor, ExpectedAttention, SnapKV, ProbeAttention, KeyDiff and LagKV.
    num_experts : int, optional
        Number of experts to use: the first of `experts`, or of all registered ones if `experts` is not given. Gates
        with the same number of experts use their own.
    top_k : int, optional
        Maximum number of experts blended for a head. By default 4, or fewer if there are fewer experts.
    temperature : float, default=1.0
        Divisor of the gate's logits: values below 1 sharpen the choice, values above 1 make it more even.
    cache_aware : bool, default=True
        Whether the "pikv" router sees the budget, the context length and the attention each expert would lose.
    importance_threshold : float, default=0.8
        Total gate probability that the experts of a head must reach, for the "adaptive" router and `adaptive_top_k`:
        higher = more experts.
    adaptive_top_k : bool, default=False
        Whether any router may use fewer than `top_k` experts for heads whose gate is confident.
    capacity_factor : float, default=1.0
        For the "eplb" router: number of heads that an expert may serve, relative to exact balance; at least 1.
    num_groups : int, default=2
        For the "hierarchical" router: number of groups that the experts are divided into, in order.
    group_top_k : int, default=1
        For the "hierarchical" router: number of groups chosen for a head.
    dropout : float, default=0.0
        Only during fitting: share of the head features that are dropped.
    aux_loss_weight : float, default=0.01
        Only during fitting: weight of the Switch load-balancing loss. `get_stats` reports the loss.
    balance_mode : {"entropy", "variance", "gini"}, default="entropy"
        Only during fitting: the imbalance that the "topk_balanced" router penalises.
    balance_coefficient : float, default=0.01
        Only during fitting: weight of this penalty.
    gates : str, Path or None, default="auto"
        Fitted gates. "auto": the model's gates in `pikvpress.gates.user_folder()` or shipped with the package, if they
        were fitted for the router and the experts. A path: that file, which raises an error for any other model, router
        or experts. None: no gates. Without gates, the router uses a deterministic prior: prior weight of the expert
        (ProbeAttention 2, others 1) / sqrt(measured retained error). Gates determine the experts unless `experts`, or
        another `num_experts`, is given.
    budgets : {"auto", "equal", "fitted", "pyramid", "adakv", "global"}, default="auto"
        How many tokens each head keeps, with the same total. "auto": "fitted" in a `PiKVCache` if there are gates and
        no wrapper that may also select, otherwise "equal". "equal": the same number in all heads. "fitted": shares
        according to the error curves in the gates. "pyramid": fewer from layer to layer, as in PyramidKV. "adakv": by
        the scores, in one pool per layer, as in AdaKV. "global": by the scores, in one pool for all layers. All except
        "equal" and "pyramid" leave heads of different lengths, which transformers' own caches cannot hold: removed
        entries are then masked, as in kvpress's AdaKVPress, and bytes are saved only in a `PiKVCache`.
    refit : bool or "auto", default="auto"
        Whether the values of kept entries are refitted, so that attention over them is closer to attention over all
        entries (`pikvpress.refit`). True: for queries of the context and, if the gates have them, of calibration.
        "auto": only with fitted budgets, if the gates have them. Values stay unchanged with "global" budgets, and
        inside wrappers that select.
    decoding : bool, str or Scheduler, default=False
        Whether entries after the context are dropped as well, as they leave the recent window of a `PiKVCache`, so that
        the same share of them stays as of the context: True by fitted saliency, or by a scheduler of
        `pikvpress.schedulers`, such as "h2o". The cache goes on with it after the press's context manager has exited.

    Raises
    ------
    ValueError, TypeError
        Before the model runs: for settings out of range, unknown names, gates fitted for something else, or a wrapper
        that would undo the press's decisions. During the prefill: for a static cache, a context shorter than the
        experts can score, a padded batch that cannot be compressed row by row, and NaN or infinite numbers. Hooks are
        then removed, and the cache is left empty.

    Examples
    --------
    >>> press = MoERouterPress(compression_ratio=0.5)
    >>> with press(model):
    ...     model.generate(**inputs)
    >>> print(press.plan)
    """

    known_budgets: ClassVar[Mapping[str, type[Budget]]] = TOKEN_BUDGETS

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model is supported, the gates belong to it, and no wrapper undoes the press's decisions."""
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
        """Compress a layer after its attention, unless the layer or its cache has a sliding window."""
        if self._later.begun:  # another press is responsible for the prompt
            return output
        cache = kwargs.get("past_key_values")
        if cache is None:
            raise ValueError("there is no cache to compress: call the model with use_cache=True or past_key_values=...")
        cache_layer = cache.layers[module.layer_idx]
        if models.is_sliding(module, cache_layer):
            if not models.is_sliding(module):
                logger.warning_once(  # type: ignore[attr-defined]
                    "the cache keeps a sliding window and is left unchanged: to compress the context, pass "
                    "past_key_values=DynamicCache() to the model"
                )
            return output
        refuse_static(cache)
        kind = self._kind_in(module, cache_layer)
        if TOKEN_BUDGETS[kind].waits and isinstance(cache_layer, PiKVLayer) and cache_layer.packs:
            raise ValueError(
                f"{kind} budgets are decided after the last layer, but this PiKVCache packs layer by layer: "
                "use a PiKVCache() without codecs, or budgets='fitted' or 'adakv'"
            )
        return super().forward_hook(module, input, kwargs | {BUDGETS: kind}, output)

    def _kind_in(self, module: models.Attention, cache_layer: Any) -> str:
        """Return the budgets to use in a cache's layer; equal ones inside a wrapper, which may also select."""
        if self.budgets != AUTO:
            return self.budgets
        fits = self._alone and isinstance(cache_layer, PiKVLayer) and "fitted" in self._router_in(module).budgets
        return "fitted" if fits else "equal"

    def _kind_for_others(self) -> str:
        """Return the budgets to use where another press selects or removes entries itself."""
        if self.budgets not in (AUTO, "equal"):
            raise ValueError(
                f"{self.budgets} budgets cannot be used inside another press that selects entries itself: use "
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

        The hidden states may belong to other tokens than the keys: fewer during decoding, more after a press that
        pruned keys. Experts that cannot score the input are then skipped, and the others share their weight.

        Returns
        -------
        torch.Tensor
            Value of each key, float32, shape (batch, kv_heads, keys), higher = keep. If the gates have error curves,
            this is the change of predictions without the key, in nats; otherwise its estimated share of attention.

        Raises
        ------
        ValueError
            For a padded batch, no keys, no expert that can score the input, a NaN score, or budgets other than equal,
            since the caller of `score` selects entries itself.
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

        With budgets that differ between heads, and of a padded batch, all keys and values are returned, and removed
        ones are masked.
        """
        if self.compression_ratio == 0:
            return keys, values
        way_out = "let one press both choose and remove, or wrap MoERouterPress in the head-wise press"
        refuse_masked_keys(module, way_out)
        kind = kwargs.get(BUDGETS) or self._kind_for_others()
        layer = self._input(module, hidden_states, keys, values, attentions, kwargs)
        with self._record.press.span(keys.device):
            for decision in self._decide(layer, kind):
                decided = decision.layer
                if decided.module is module:
                    values = decided.values
                if decision.is_ragged:
                    self._warn_of_masks(kind, kwargs.get("past_key_values"))
                    decided.module.masked_key_indices = decision.removed()
                    nbytes = decided.keys.nbytes + decided.values.nbytes
                else:
                    positions = decision.positions()
                    keys, values = gather_rows(keys, positions), gather_rows(values, positions)
                    nbytes = keys.nbytes + values.nbytes
                self._record.selected(decision, nbytes)
        return keys, values

    def _warn_of_masks(self, kind: str, cache: Any) -> None:
        """Warn once if entries are masked only because the rows of a padded batch keep different numbers of them."""
        layers = getattr(cache, "layers", ())
        if TOKEN_BUDGETS[kind].leaves_rows and not any(isinstance(layer, PiKVLayer) for layer in layers):
            logger.warning_once(  # type: ignore[attr-defined]
                "the batch is padded, so removed entries are only masked, and no memory is freed: pass "
                "past_key_values=PiKVCache() to the model"
            )
