"""MoERouterPress: a gated router blends compression strategies per layer and KV head."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from kvpress import BasePress, ScorerPress
from kvpress.utils import compute_n_kept
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache import PiKVLayer
from pikvpress.examination import examine
from pikvpress.experts import Expert, LayerView, equipped, make_experts
from pikvpress.gates import Gates, find_gates, key, load_gates
from pikvpress.gating import make_router
from pikvpress.kernels.blend import blend, transport
from pikvpress.kernels.compact import gather_rows, select
from pikvpress.plan import Plan, describe_heads
from pikvpress.presses.budgets import KINDS, Budgets, make_budgets
from pikvpress.presses.checks import (
    checked_ratio,
    refuse_masked_keys,
    refuse_padding,
    refuse_static,
    warn_of_uneven_layers,
)
from pikvpress.presses.prefill_watch import prefill_watch
from pikvpress.presses.projection_tap import ProjectionTap
from pikvpress.presses.recorder import Recorder
from pikvpress.presses.wrappers import refuse_wrappers
from pikvpress.routers import ROUTERS, Router, RouterSettings, Routing

logger = logging.getLogger(__name__)

# Wrappers that evict by a threshold leave the ratio at 0; experts are then compared at this one.
NOMINAL_RATIO = 0.5

AUTO = "auto"

# Under this name our own hook tells `compress`, in the forward's arguments, which budgets to keep.
BUDGETS = "pikvpress_budgets"


class _Bound(NamedTuple):
    """What serves one kind of budgets in the model at hand; `measures` says whether head features are wanted."""

    router: Router
    budgets: Budgets
    measures: bool


def _routed_for(kind: str) -> str:
    """Return for which budgets the gates of a router were fitted that serves a kind."""
    return "fitted" if kind == "fitted" else "equal"


@dataclass
class MoERouterPress(ScorerPress):
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

    _known_budgets: ClassVar[tuple[str, ...]] = (AUTO, *KINDS)

    compression_ratio: float = 0.0
    router_type: str = "pikv"
    experts: Sequence[str | ScorerPress] | None = None
    num_experts: int | None = None
    top_k: int | None = None
    temperature: float = RouterSettings.temperature
    cache_aware: bool = RouterSettings.cache_aware
    importance_threshold: float = RouterSettings.importance_threshold
    adaptive_top_k: bool = RouterSettings.adaptive_top_k
    capacity_factor: float = RouterSettings.capacity_factor
    num_groups: int = RouterSettings.num_groups
    group_top_k: int = RouterSettings.group_top_k
    dropout: float = RouterSettings.dropout
    aux_loss_weight: float = RouterSettings.aux_loss_weight
    balance_mode: str = RouterSettings.balance_mode
    balance_coefficient: float = RouterSettings.balance_coefficient
    gates: str | Path | None = AUTO
    budgets: str = AUTO
    _asked: tuple[Expert, ...] = field(default=(), init=False, repr=False, compare=False)
    _experts: tuple[Expert, ...] = field(default=(), init=False, repr=False, compare=False)
    _settings: RouterSettings | None = field(default=None, init=False, repr=False, compare=False)
    _given: Gates | None = field(default=None, init=False, repr=False, compare=False)
    _gates: Gates | None = field(default=None, init=False, repr=False, compare=False)
    _bound: dict[str, _Bound] = field(default_factory=dict, init=False, repr=False, compare=False)
    _alone: bool = field(default=False, init=False, repr=False, compare=False)
    _layers: list[int] = field(default_factory=list, init=False, repr=False, compare=False)
    _undecided: dict[int, models.Attention] = field(default_factory=dict, init=False, repr=False, compare=False)
    _model_config: Any = field(default=None, init=False, repr=False, compare=False)
    _recorder: Recorder = field(default_factory=Recorder, init=False, repr=False, compare=False)
    _tap: ProjectionTap = field(default_factory=ProjectionTap, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.budgets not in self._known_budgets:
            known = ", ".join(map(repr, self._known_budgets))
            raise ValueError(f"budgets must be one of {known}, got {self.budgets!r}")
        if self.gates is not None and self.gates != AUTO:
            self._given = load_gates(self.gates)
        experts = make_experts(self.experts, self.num_experts)
        if self._given is not None:
            if self._takes_experts_of(self._given):
                experts = make_experts(self._given.experts, None)
            self._given.parameters(self.router_type, [expert.name for expert in experts], _routed_for(self.budgets))
        self._asked = experts
        self._use(experts)

    def _use(self, experts: tuple[Expert, ...]) -> None:
        """Take these experts, and the settings checked for their number."""
        names = [setting.name for setting in fields(RouterSettings) if setting.name != "top_k"]
        top_k = min(RouterSettings.top_k, len(experts)) if self.top_k is None else self.top_k
        settings = RouterSettings(top_k=top_k, **{name: getattr(self, name) for name in names})
        ROUTERS[self.router_type].check(settings, len(experts))
        self._experts, self._settings = experts, settings

    def _takes_experts_of(self, gates: Gates) -> bool:
        return self.experts is None and self.num_experts in (None, len(gates.experts))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "compression_ratio":  # wrappers set it per layer and per step
            value = checked_ratio(value)
        elif self._is_made() and not name.startswith("_") and name in self.__dataclass_fields__:
            raise AttributeError(
                f"{name} is fixed once the press is made: make a new one, or use dataclasses.replace(press, {name}=...)"
            )
        object.__setattr__(self, name, value)

    def _is_made(self) -> bool:
        return self.__dict__.get("_settings") is not None

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model is supported, the gates are its own, and no wrapper undoes what is decided."""
        models.check_supported(model)
        self._refuse_wrappers()
        layers = models.attention_layers(model)
        self._adopt_gates(layers[0])
        self._layers = [index for index, layer in enumerate(layers) if not models.is_sliding(layer)]
        for expert in self._experts:
            expert.press.post_init_from_model(model)
        self._model_config = layers[0].config
        if self.budgets == "pyramid":
            warn_of_uneven_layers(self, model)

    def _refuse_wrappers(self) -> None:
        if self.budgets not in (AUTO, "equal"):
            what = f"MoERouterPress(budgets={self.budgets!r})"
            way_out = "use it without a wrapper, or budgets='equal'"
            refuse_wrappers(self, what, way_out, leaves_rows=self.budgets == "pyramid")

    @contextmanager
    def __call__(self, model: PreTrainedModel) -> Iterator[None]:
        """Compress the contexts that `model` prefills inside the ``with``; afterwards it is as it was.

        Raises
        ------
        ValueError
            If the model is not supported, the gates belong to another, or there are none to fit budgets by.
        """
        models.check_supported(model)
        self._adopt_gates(models.attention_layers(model)[0])
        shortest = min(expert.min_tokens for expert in self._experts)
        self._alone = True
        try:
            with (
                prefill_watch(model, self, shortest, self._recorder),
                self._tap.on(model),
                super().__call__(model),
            ):
                yield
        finally:
            self._alone = False

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
        kind = self._kind_in(cache_layer)
        if kind == "global" and isinstance(cache_layer, PiKVLayer) and cache_layer.packs:
            raise ValueError(
                "global budgets are known after the last layer, and this PiKVCache packs each layer before the next: "
                "use a PiKVCache() without codecs, or budgets='fitted' or 'adakv'"
            )
        return super().forward_hook(module, input, kwargs | {BUDGETS: kind}, output)

    def _kind_in(self, cache_layer: Any) -> str:
        """Return the budgets that are kept in a cache's layer; inside a wrapper, which may choose too, equal ones."""
        if self.budgets != AUTO:
            return self.budgets
        fits = self._alone and isinstance(cache_layer, PiKVLayer) and self._gates is not None
        return "fitted" if fits and self._fits("fitted", self._gates) else "equal"

    def _kind_for_others(self) -> str:
        """Return the budgets that are kept where another press selects, or removes by itself."""
        if self.budgets not in (AUTO, "equal"):
            raise ValueError(
                f"{self.budgets} budgets cannot be kept inside another press, which selects by itself: use "
                f"{type(self).__name__} without a wrapper, or budgets='equal'"
            )
        return "equal"

    @torch.no_grad()
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

        The hidden states may be those of other tokens than the keys: fewer while decoding, more behind a press that
        pruned. Experts that cannot score the input at hand then sit out, and the others share their weight.

        Returns
        -------
        torch.Tensor
            What a key is worth, float32, shape (batch, kv_heads, keys), higher = keep: with gates that carry error
            curves the nats by which predictions would change without it, else its estimated share of attention.

        Raises
        ------
        ValueError
            For a padded batch, no keys, no expert that can score the input, a score that is not a number, or fitted
            budgets: who asks for scores selects by itself.
        """
        kind = kwargs.get(BUDGETS) or self._kind_for_others()
        self._recorder.enter(module.layer_idx)
        with self._recorder.press.span(keys.device):
            if models.is_sliding(module):
                raise ValueError(
                    f"layer {module.layer_idx} attends a sliding window and cannot be scored: use MoERouterPress "
                    "without a wrapper, which leaves such layers alone, or PerLayerPress for the other layers"
                )
            if keys.shape[2] > hidden_states.shape[1]:
                refuse_masked_keys(module, "decode with DecodingPress(MoERouterPress(...)), without AdaKVPress between")
            refuse_static(kwargs.get("past_key_values"))
            refuse_padding(kwargs.get("attention_mask"))
            bound = self._serving(kind, module)
            ratio = self._share_removed(keys.shape[2]) or NOMINAL_RATIO
            view = LayerView(module, hidden_states, self._tap.take(hidden_states))
            inputs = hidden_states, keys, values, attentions, kwargs
            seen = examine(self._experts, view, *inputs, ratio, bound.measures)
            routing = self._route(bound.router, module.layer_idx, seen.features, seen.available)
            order = blend(seen.ranked, routing.weights[..., seen.available])
            result = transport(order, self._worth(module.layer_idx, order, seen.mass, ratio))
        num_kept = compute_n_kept(keys.shape[2], self._share_removed(keys.shape[2]))
        self._recorder.record(module.layer_idx, routing, keys, values, num_kept)
        self._log(module.layer_idx, routing, num_kept, keys.shape[2])
        return result

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
        refuse_masked_keys(
            module, "let one press both choose and remove, or wrap MoERouterPress in the head-wise press"
        )
        kind = kwargs.get(BUDGETS) or self._kind_for_others()
        scores = self.score(module, hidden_states, keys, values, attentions, kwargs)
        num_kept = compute_n_kept(keys.shape[2], self.compression_ratio)
        with self._recorder.press.span(keys.device):
            if self._undecided and module.layer_idx <= max(self._undecided):  # those of a forward that did not end
                self._undecided.clear()
            self._undecided[module.layer_idx] = module
            decided = self._bound[kind].budgets.decide(module.layer_idx, scores, num_kept, self.compression_ratio)
            for layer, kept in decided.items():
                reader = self._undecided.pop(layer)
                if isinstance(kept, int):
                    positions = select(scores, kept)
                    keys, values = gather_rows(keys, positions), gather_rows(values, positions)
                    counts = [kept] * keys.shape[1]
                else:
                    reader.masked_key_indices = tuple((~kept).nonzero(as_tuple=True))
                    counts = kept.sum(dim=-1).float().mean(dim=0).round().int().tolist()
                self._recorder.selected(layer, counts, keys.nbytes + values.nbytes)
        return keys, values

    @property
    def plan(self) -> Plan:
        """What was decided in the last prefill."""
        return self._recorder.plan(
            self.router_type, self._gates is not None, [e.name for e in self._experts], self.compression_ratio
        )

    def get_stats(self) -> dict[str, Any]:
        """Return figures of the last prefill.

        Returns
        -------
        dict
            `compression_ratio` asked and `reached_ratio` (None where a wrapper selects), `tokens_asked`,
            `tokens_kept`, `bytes_before`, `bytes_after` (keys and values of the compressed layers, weights excluded),
            `press_seconds`, `prefill_seconds`, `press_share`, `expert_shares` (mean gate weight by name),
            `avg_aux_loss` (mean over layers), `layer_stats` (by layer: `tokens_asked`, `tokens_kept`, `num_keys`,
            `expert_weights` by head, `aux_loss`).
        """
        return self._recorder.stats(self.plan)

    def reset_stats(self) -> None:
        """Forget what was recorded."""
        self._recorder.reset()

    def _share_removed(self, num_keys: int) -> float:
        """Return the share of tokens to remove, by which experts are compared."""
        return self.compression_ratio

    @property
    def _curves(self) -> torch.Tensor | None:
        return None if self._gates is None else self._gates.curves

    def _worth(self, layer: int, like: torch.Tensor, mass: torch.Tensor | None, ratio: float) -> torch.Tensor:
        """Return what the keys of each head are worth, in any order, shape (batch, kv_heads, keys)."""
        if self._gates is None or self._curves is None:
            assert mass is not None
            return mass
        return self._gates.marginal_errors(ratio, layer, like.shape[2]).to(like.device).expand_as(like)

    def _route(self, router: Router, layer: int, features: torch.Tensor, available: list[int]) -> Routing:
        mask = torch.zeros(len(self._experts), dtype=torch.bool, device=features.device)
        mask[available] = True
        return router(layer, features, mask)

    @property
    def _needed(self) -> str:
        """For which budgets gates must have been fitted to be of use."""
        return "equal" if self.budgets == AUTO else self.budgets

    def _fits(self, kind: str, gates: Gates | None) -> bool:
        """Return whether gates know the router for a kind of budgets, and what that needs."""
        if gates is None or key(self.router_type, _routed_for(kind)) not in gates.routers:
            return False
        return kind != "fitted" or gates.curves is not None

    def _adopt_gates(self, first: models.Attention) -> None:
        """Take the gates for the model whose first layer this is, and their experts; forget those of another.

        Raises
        ------
        ValueError
            If gates were given for another model, or fitted budgets are asked for and there are none.
        """
        self._model_config = None
        self._bound.clear()
        self._layers.clear()
        self._gates = self._gates_for(first)
        experts, saliency = self._asked, None
        if self._gates is not None:
            saliency = self._gates.saliency
            if [expert.name for expert in experts] != list(self._gates.experts):
                experts = make_experts(self._gates.experts, None)
        self._use(equipped(experts, saliency))
        if self._needed == "fitted" and not self._fits("fitted", self._gates):
            raise ValueError(
                "budgets='fitted' needs gates that were fitted for this model: fit some with `pikvpress calibrate`, "
                "or use budgets='equal'"
            )

    def _gates_for(self, first: models.Attention) -> Gates | None:
        if self.gates is None:
            return None
        fingerprint = models.fingerprint(first)
        if self._given is not None:
            self._given.check_model(fingerprint)
            return self._given
        found = find_gates(fingerprint)
        if found is None:
            logger.warning_once(  # type: ignore[attr-defined]
                "MoERouterPress routes by its prior: no gates were fitted for this model; `pikvpress calibrate` does it"
            )
            return None
        experts = found.experts if self._takes_experts_of(found) else [expert.name for expert in self._asked]
        if key(self.router_type, _routed_for(self._needed)) not in found.routers or list(experts) != list(
            found.experts
        ):
            logger.warning_once(  # type: ignore[attr-defined]
                f"MoERouterPress routes by its prior: the gates found for this model know the experts "
                f"{', '.join(found.experts)} and the routers {', '.join(found.router_types)}, and others were asked for"
            )
            return None
        return found

    def _serving(self, kind: str, module: models.Attention) -> _Bound:
        """Return what serves a kind of budgets in the module's model, on its device.

        Some wrappers never pass the model on, so all is made lazily.
        """
        if self._model_config is not module.config:
            if module.layer_idx == 0:
                self._adopt_gates(module)
            elif self.gates is not None:
                raise ValueError(
                    "which gates belong to the model shows in its first layer, which the wrapper press did not "
                    "compress: call press.post_init_from_model(model) on the MoERouterPress first, or set gates=None "
                    "to route by the prior"
                )
            else:
                self._bound.clear()
                self._layers.clear()
            self._refuse_uninitialised(kind)
            self._model_config = module.config
        if kind not in self._bound:
            self._bound[kind] = self._bind(kind, module)
        self._bound[kind].router.to(module.o_proj.weight.device)
        return self._bound[kind]

    def _bind(self, kind: str, module: models.Attention) -> _Bound:
        assert self._settings is not None
        router = make_router(self.router_type, self._experts, module, self._settings)
        if self._gates is not None:
            names = [expert.name for expert in self._experts]
            router.load_state_dict(dict(self._gates.parameters(self.router_type, names, _routed_for(kind))))
        return _Bound(router, make_budgets(kind, self._gates, self._layers), router.looks() or self._curves is None)

    def _refuse_uninitialised(self, kind: str) -> None:
        if kind in ("pyramid", "global"):
            raise ValueError(
                f"{kind} budgets need the model, which the wrapper press does not pass on: call "
                "press.post_init_from_model(model) on the MoERouterPress first"
            )
        for expert in self._experts:
            if type(expert.press).post_init_from_model is not BasePress.post_init_from_model:
                raise ValueError(
                    f"expert {expert.name} needs the model, which the wrapper press does not pass on: call "
                    "press.post_init_from_model(model) on the MoERouterPress first"
                )

    def _log(self, layer: int, routing: Routing, num_kept: int, num_keys: int) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            names = [expert.name for expert in self._experts]
            heads = describe_heads(names, routing.weights.mean(dim=0).tolist())
            logger.debug("layer %d: keep %d of %d; heads: %s", layer, num_kept, num_keys, heads)
