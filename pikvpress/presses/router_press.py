"""The base class of presses with a router: their settings, the router for a model, and its decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from kvpress import ScorerPress
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.budgets import Budget, Decision, ModelShape
from pikvpress.experts import LayerInput
from pikvpress.experts.projection_tap import ProjectionTap
from pikvpress.gates import Gates
from pikvpress.layerwise import LayerwisePress, acts_alone
from pikvpress.plan import Plan
from pikvpress.presses.checks import checked_ratio, refuse_masked_keys, refuse_padding, refuse_static
from pikvpress.presses.deciding import decide
from pikvpress.presses.decoding_budget import DecodingBudget
from pikvpress.presses.prefill_watch import PrefillWatch
from pikvpress.presses.wrappers import is_decoding_press
from pikvpress.ranks import shard_of
from pikvpress.routers import RouterSettings
from pikvpress.routing import AUTO, BoundRouter, Examiner, Recorder, RouterSpec, bind, examine, knows_router
from pikvpress.schedulers import Scheduler

# Attributes that may be set after construction: wrappers set the ratio per layer and per step.
SETTABLE = ("compression_ratio", "examiner")


@dataclass(frozen=True, eq=False)
class _Met:
    """The model that a press was put around without a wrapper, known by its config, and its gates, read once."""

    config: Any
    gates: Gates | None


@dataclass
class RouterPress(LayerwisePress):
    """A press whose router is bound to the model it is used with; see `MoERouterPress` for its settings.

    Attributes
    ----------
    examiner : callable
        Function that examines a layer: `pikvpress.routing.examine`, unless it is replaced to share examinations between
        presses.
    """

    known_budgets: ClassVar[Mapping[str, type[Budget]]]

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
    refit: bool | str = AUTO
    decoding: bool | str | Scheduler = False
    examiner: Examiner = field(default_factory=lambda: examine, init=False, repr=False, compare=False)
    _spec: RouterSpec = field(init=False, repr=False, compare=False)
    _router: BoundRouter | None = field(default=None, init=False, repr=False, compare=False)
    _alone: _Met | None = field(default=None, init=False, repr=False, compare=False)
    _record: Recorder = field(default_factory=Recorder, init=False, repr=False, compare=False)
    _tap: ProjectionTap = field(default_factory=ProjectionTap, init=False, repr=False, compare=False)
    _later: DecodingBudget = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.budgets not in (AUTO, *self.known_budgets):
            known = ", ".join(map(repr, (AUTO, *self.known_budgets)))
            raise ValueError(f"budgets must be one of {known}, got {self.budgets!r}")
        if self.refit not in (AUTO, True, False):
            raise ValueError(f"refit must be True, False or {AUTO!r}, got {self.refit!r}")
        self._later = DecodingBudget(self.decoding, self._record)
        spec = RouterSpec.of(self)
        experts = spec.experts_of(spec.gates) if isinstance(spec.gates, Gates) else spec.experts
        self._record.describe(self.router_type, [expert.name for expert in experts], fitted=False)
        self._spec = spec

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "compression_ratio":
            value = checked_ratio(value)
        elif name not in SETTABLE and name in self._settings() and "_spec" in self.__dict__:
            raise AttributeError(
                f"{name} cannot be changed: create a new press, or use dataclasses.replace(press, {name}=...)"
            )
        object.__setattr__(self, name, value)

    def _described(self) -> dict[str, Any]:
        """Return the settings that ranks must have in common."""
        shown = {name: getattr(self, name) for name in self._settings() if name not in ("examiner", "experts")}
        experts = [expert.name for expert in self._spec.experts]
        return {"press": type(self).__name__, **shown, "experts": experts}

    @classmethod
    def _settings(cls) -> list[str]:
        return [name for name in cls.__dataclass_fields__ if not name.startswith("_")]

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model is supported, the gates belong to it, and no wrapper undoes the press's decisions."""
        models.check_supported(model)
        layers = models.attention_layers(model)
        if is_decoding_press(self, bool(self._later)):
            self._later.begin(model, self._gates_of(layers[0]), self.compression_ratio)
            return
        self._refuse_wrappers()
        if self._later and self._alone is None:
            raise ValueError(
                "decoding works without a wrapper, in which another press would decide too, or as the decoding press "
                "of PrefillDecodingPress: use the press in one of these ways, or set decoding=False"
            )
        compressed = tuple(index for index, layer in enumerate(layers) if not models.is_sliding(layer))
        heads, head_dim = models.num_key_value_heads(layers[0]), layers[0].head_dim
        self._router = self._bound(layers[0], ModelShape(len(layers), heads, head_dim, model.dtype, compressed))
        for expert in self._router.experts:
            expert.press.post_init_from_model(model)

    def reset(self) -> None:
        """Stop scheduling caches as the decoding press of kvpress's PrefillDecodingPress, which calls this."""
        self._later.end()

    def _refuse_wrappers(self) -> None:
        """Raise a ``ValueError`` if the press is inside a wrapper that it does not support."""
        raise NotImplementedError

    @contextmanager
    def __call__(self, model: PreTrainedModel) -> Iterator[None]:
        """Compress the contexts that `model` prefills inside the ``with`` block; the model is restored afterwards.

        Raises
        ------
        ValueError
            If the model is not supported, the gates belong to another model, or fitted budgets need gates and there are
            none.
        """
        model = models.unwrapped(model)
        models.check_supported(model)
        first = models.attention_layers(model)[0]
        shard = shard_of(first)
        shard.agree(self._described() | {"dtype": model.dtype})
        with shard.together(first.o_proj.weight.device):
            found = self._gates_of(first)
            gates, _ = self._gates_and_budgets(found)
            shortest = min(expert.min_tokens for expert in self._spec.equipped_for(gates))
        shard.agree({"gates": None if gates is None or shard.is_whole else gates.digest()})
        self._alone = _Met(first.config, found)
        try:
            watch = PrefillWatch(self, shortest, self._record)
            with watch.on(model), self._later.on(model, found), self._tap.on(model), super().__call__(model):
                yield
        finally:
            self._alone, self._router = None, None

    @property
    def plan(self) -> Plan:
        """The decisions of the last prefill."""
        return self._record.plan(self.compression_ratio)

    def get_stats(self) -> dict[str, Any]:
        """Return statistics of the last prefill.

        Returns
        -------
        dict
            Requested `compression_ratio` and `reached_ratio` (None if a wrapper selects), `tokens_asked`,
            `tokens_kept`, `bytes_before`, `bytes_after` (keys and values of the compressed layers, excluding weights),
            `press_seconds`, `prefill_seconds`, `press_share`, `expert_shares` (mean gate weight by name),
            `avg_aux_loss` (mean over layers), `layer_stats` (by layer: `tokens_asked`, `tokens_kept`, `num_keys`,
            `expert_weights` by head, `aux_loss`), `moe` (by layer of a mixture of experts: `load`, the share of tokens
            that each of the model's own experts read, and the mean `entropy` of its router; see `MoELoad`).
        """
        return self._record.stats(self.plan)

    def reset_stats(self) -> None:
        """Clear the record."""
        self._record.reset()

    def _input(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor | None,
        kwargs: dict,
    ) -> LayerInput:
        """Collect kvpress's arguments in one object, or raise a ``ValueError`` if the layer cannot be scored."""
        self._record.enter(module.layer_idx)
        if models.is_sliding(module):
            raise ValueError(
                f"layer {module.layer_idx} has sliding-window attention and cannot be scored: use MoERouterPress "
                "without a wrapper, which skips such layers, or PerLayerPress for the other layers"
            )
        if keys.shape[2] > hidden_states.shape[1]:
            refuse_masked_keys(module, "decode with DecodingPress(MoERouterPress(...)), without AdaKVPress between")
        refuse_static(kwargs.get("past_key_values"))
        if self._later or not acts_alone(self, module) or keys.shape[2] != hidden_states.shape[1]:
            refuse_padding(kwargs.get("attention_mask"))
        outputs = self._tap.take(hidden_states)
        kwargs = models.rotation_of(module, kwargs)
        return LayerInput(module, hidden_states, models.in_halves(module, keys), values, attentions, kwargs, outputs)

    def _decide(self, layer: LayerInput, kind: str) -> Sequence[Decision]:
        """Return the decisions that can be made after a layer, see `decide`."""
        return decide(self._router_in(layer.module), layer, kind, self.compression_ratio, self.refit)

    def _router_in(self, module: models.Attention) -> BoundRouter:
        """Return the router for the model of a module, created late if a wrapper does not pass the model on."""
        if self._router is None or self._router.config is not module.config:
            if module.layer_idx != 0 and self.gates is not None:
                raise ValueError(
                    "the model's gates are identified by its first layer, which the wrapper press did not compress: "
                    "call press.post_init_from_model(model) on the MoERouterPress first, or set gates=None "
                    "to route by the prior"
                )
            self._router = self._bound(module, None)
        return self._router

    def _bound(self, module: models.Attention, shape: ModelShape | None) -> BoundRouter:
        gates, budgets = self._gates_and_budgets(self._gates_of(module))
        return bind(self._spec, module, gates, budgets, shape, self.examiner, self._record)

    def _gates_of(self, first: models.Attention) -> Gates | None:
        """Return the gates of a model, whether they are used or not, or None if there are none or they are turned off.

        Raises
        ------
        ValueError
            If the given gates belong to another model, or the file that was found cannot be used.
        """
        if self._alone is not None and self._alone.config is first.config:
            return self._alone.gates
        return self._spec.gates_of(models.fingerprint(first)) if self.gates is not None else None

    def _gates_and_budgets(self, found: Gates | None) -> tuple[Gates | None, dict[str, type[Budget]]]:
        """Return the gates that serve, and the budgets that may be kept in their model, the one that is needed first.

        Raises
        ------
        ValueError
            If budgets are drawn from curves that there are none of.
        """
        needed, *others = self._wanted(found)
        gates = self._spec.gates_for(found, needed)
        if self.known_budgets[needed].needs_curves and not self._serves(gates, needed):
            raise ValueError(
                f"budgets={needed!r} needs gates that were fitted for this model: fit some with `pikvpress calibrate`, "
                "or use budgets='equal'"
            )
        kinds = [needed, *(kind for kind in others if self._serves(gates, kind))]
        return gates, {kind: self.known_budgets[kind] for kind in kinds}

    def _wanted(self, found: Gates | None) -> tuple[str, ...]:
        """Return the required kind of budgets, and others that are used if the gates support them."""
        raise NotImplementedError

    def _serves(self, gates: Gates | None, budgets: str) -> bool:
        """Return whether gates contain what a kind of budgets needs."""
        knows = gates is not None and knows_router(gates, self._spec, budgets)
        return knows and self.known_budgets[budgets].fits(gates)
