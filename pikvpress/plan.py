"""The plan: a router press's decisions per layer and head, to print, save and plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def describe_heads(experts: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """Describe which experts each head uses, given gate weights of shape (kv_heads, experts)."""
    return "; ".join(
        " + ".join(f"{name} {weight:.2f}" for name, weight in zip(experts, row, strict=True) if weight)
        for row in weights
    )


def _span(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


@dataclass(frozen=True)
class LayerPlan:
    """The decisions for one layer.

    Attributes
    ----------
    layer : int
        Index of the layer.
    num_keys : int
        Keys per head before compression.
    weights : list
        Gate weights, nested lists of shape (batch, kv_heads, experts).
    tokens_asked : int
        Tokens to keep per head at the requested ratio.
    head_tokens : list of int, or None
        Tokens that each KV head keeps; None if a wrapper press selected from the scores.
    bytes_before, bytes_after : int
        Bytes of the layer's keys and values. In a `PiKVCache`, `bytes_after` is what the cache holds. In other caches
        it equals `bytes_before` if the wrapper selects, or if removed entries are only masked.
    codecs : list of (str, str), or None
        Codecs of each KV head's keys and values; None if they are stored unchanged.
    """

    layer: int
    num_keys: int
    weights: list[list[list[float]]]
    tokens_asked: int
    head_tokens: list[int] | None
    bytes_before: int
    bytes_after: int
    codecs: list[tuple[str, str]] | None = None

    @property
    def tokens_kept(self) -> float | None:
        """Tokens kept per head, averaged over heads; None if a wrapper press selected."""
        return sum(self.head_tokens) / len(self.head_tokens) if self.head_tokens is not None else None

    def head_weights(self) -> list[list[float]]:
        """Return gate weights averaged over the batch, shape (kv_heads, experts)."""
        batch = len(self.weights)
        return [
            [sum(row[head][expert] for row in self.weights) / batch for expert in range(len(self.weights[0][head]))]
            for head in range(len(self.weights[0]))
        ]


@dataclass(frozen=True)
class MoELoad:
    """How the experts of a mixture-of-experts model itself, in the MLP of one layer, shared the tokens of a context.

    Attributes
    ----------
    layer : int
        Index of the layer, which may be one that is not compressed.
    tokens : int
        Tokens that the layer's router saw, without padding.
    per_token : int
        Number of experts that read a token.
    load : list of float
        Share of the tokens that each expert read; the sum is `per_token`.
    entropy : float
        Entropy of the router's probabilities over all experts, in nats, averaged over tokens.
    """

    layer: int
    tokens: int
    per_token: int
    load: list[float]
    entropy: float

    @property
    def imbalance(self) -> float:
        """Load of the busiest expert, relative to the mean over experts."""
        return max(self.load) * len(self.load) / self.per_token


def _of_experts(loads: Sequence[MoELoad]) -> str:
    """Describe the load of a model's own experts in one line."""
    busiest, entropies = max(loads, key=lambda one: one.imbalance), [one.entropy for one in loads]
    spans = " to ".join(f"{value:.2f}" for value in sorted({min(entropies), max(entropies)}))
    chosen, largest = f"{busiest.per_token} of {len(busiest.load)} read a token", math.log(len(busiest.load))
    most = f"at most {busiest.imbalance:.1f} times the mean load (layer {busiest.layer})"
    return f"the model's own experts: {chosen}, entropy {spans} of {largest:.2f}, {most}"


def _with_pairs(layer: LayerPlan) -> LayerPlan:
    """Return a layer's plan with pairs of codecs, of which JSON makes lists."""
    return replace(layer, codecs=[(keys, values) for keys, values in layer.codecs or ()])


@dataclass(frozen=True)
class Plan:
    """The decisions of one prefill.

    Attributes
    ----------
    router : str
        Name of the router.
    fitted : bool
        Whether its gates are fitted; otherwise the prior is used.
    experts : list of str
        Names of the experts, in the order of the weights.
    compression_ratio : float
        The requested ratio: share of the tokens to remove.
    layers : list of LayerPlan
        Compressed layers, by index.
    press_seconds : float
        Time of deciding and compacting.
    prefill_seconds : float or None
        Time of the entire prefill; None if the press ran inside another press, where it is unknown.
    later_tokens : int
        Tokens that were read after the compressed part of the context, in chunks, all of which are kept; the layers'
        counts include them.
    moe : list of MoELoad
        How the model's own experts shared the context, by layer; empty for a dense model, and inside another press.
    """

    router: str
    fitted: bool
    experts: list[str]
    compression_ratio: float
    layers: list[LayerPlan]
    press_seconds: float
    prefill_seconds: float | None
    later_tokens: int = 0
    moe: list[MoELoad] = field(default_factory=list)

    @property
    def press_share(self) -> float | None:
        """Share of the prefill's time that the press took."""
        return self.press_seconds / self.prefill_seconds if self.prefill_seconds else None

    @property
    def bytes_before(self) -> int:
        """Bytes of keys and values before compression, in all layers of the plan."""
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """Bytes of keys and values after compression, in all layers of the plan."""
        return sum(layer.bytes_after for layer in self.layers)

    def expert_shares(self) -> dict[str, float]:
        """Return each expert's gate weight, averaged over layers and heads."""
        rows = [row for layer in self.layers for row in layer.head_weights()]
        return {name: sum(row[i] for row in rows) / max(1, len(rows)) for i, name in enumerate(self.experts)}

    def __str__(self) -> str:
        gates = "fitted gates" if self.fitted else "prior"
        lines = [f"{self.router} router ({gates}), ratio {self.compression_ratio:g}, {len(self.layers)} layers"]
        lines.append("  experts: " + ", ".join(f"{name} {share:.2f}" for name, share in self.expert_shares().items()))
        if self.layers:
            saved = f"{self.bytes_before / 2**20:.2f} -> {self.bytes_after / 2**20:.2f} MiB"
            lines.append(f"  keys and values: {saved}")
        if self.press_share is not None:
            lines.append(f"  share of the prefill's time: {self.press_share:.0%}")
        if self.later_tokens:
            lines.append(f"  the last {self.later_tokens} tokens were read after the rest, and are all kept")
        if self.moe:
            lines.append(f"  {_of_experts(self.moe)}")
        for layer in self.layers:
            kept = "the wrapper selects" if layer.head_tokens is None else f"kept {_span(layer.head_tokens)}"
            heads = describe_heads(self.experts, layer.head_weights())
            if layer.codecs is not None:
                kept += " in " + ", ".join(dict.fromkeys(f"{keys}/{values}" for keys, values in layer.codecs))
            lines.append(f"  layer {layer.layer:>2}: {kept} of {layer.num_keys} (asked {layer.tokens_asked}) | {heads}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain dicts, lists and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Create a plan from the output of `to_dict`, which may have been stored as JSON."""
        layers = [LayerPlan(**layer) for layer in data["layers"]]
        layers = [layer if layer.codecs is None else _with_pairs(layer) for layer in layers]
        return cls(**{**data, "layers": layers, "moe": [MoELoad(**load) for load in data.get("moe", ())]})

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan written by `save`."""
        return cls.from_dict(json.loads(Path(path).read_text()))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Plot the gate weights as layer × head heat maps, one per expert.

        Parameters
        ----------
        path : str or Path, optional
            File to save the figure to; its suffix determines the format.

        Raises
        ------
        ValueError
            If the plan is empty: run the press first.
        """
        if not self.layers:
            raise ValueError("the plan is empty: prefill a context with the press before plotting")
        from matplotlib.figure import Figure  # imported late: plotting is optional, and the import takes a second

        maps = [layer.head_weights() for layer in self.layers]
        shares = self.expert_shares()
        largest = max(weight for layer in maps for row in layer for weight in row)
        height = max(3.0, 0.16 * len(maps) + 1.4)
        figure = Figure(figsize=(1.6 * len(self.experts) + 1.8, height), layout="constrained")
        panels = figure.subplots(1, len(self.experts), sharey=True, squeeze=False)[0]
        for index, (panel, name) in enumerate(zip(panels, self.experts, strict=True)):
            panel.imshow([[row[index] for row in layer] for layer in maps], vmin=0, vmax=largest, aspect="auto")
            panel.set_title(f"{name}\n{shares[name]:.2f}", fontsize=8)
            panel.set_xticks(range(len(maps[0])))
            panel.set_xlabel("KV head", fontsize=8)
            panel.tick_params(labelsize=7)
        step = max(1, len(maps) // 16)
        panels[0].set_yticks(range(0, len(maps), step), [str(layer.layer) for layer in self.layers[::step]])
        panels[0].set_ylabel("layer", fontsize=8)
        figure.colorbar(panels[0].images[0], ax=panels, label="gate weight")
        figure.suptitle(f"{self.router} router, ratio {self.compression_ratio:g}", fontsize=10)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure
