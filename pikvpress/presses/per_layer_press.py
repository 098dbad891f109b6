"""PerLayerPress: a different press for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from kvpress import BasePress
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.layerwise import LayerwisePress
from pikvpress.presses.checks import warn_of_uneven_layers


@dataclass
class PerLayerPress(LayerwisePress):
    """Compress different layers with different presses.

    kvpress's `PerLayerCompressionPress` varies the ratio of one press; this class varies the press.

    Layers may keep different numbers of tokens, in any cache. `MoERouterPress` uses equal budgets in its layers unless
    other budgets are specified.

    Parameters
    ----------
    presses : mapping of int to BasePress
        Presses by index of the layer.
    default : BasePress, optional
        The press of all other layers. By default they are left unchanged.

    Raises
    ------
    TypeError
        If a layer is not an index or a press is not a press.
    ValueError
        For a press that works on the entire model rather than layer by layer and, when a model is compressed, for a
        layer that the model does not have.

    Examples
    --------
    >>> press = PerLayerPress({0: KnormPress(0.5), 1: ExpectedAttentionPress(0.5)}, default=MoERouterPress(0.5))
    """

    passes_layers_on: ClassVar[bool] = True

    presses: Mapping[int, BasePress]
    default: BasePress | None = None
    _num_layers: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.presses, Mapping):
            raise TypeError(f"presses must map layer indices to presses, got {type(self.presses).__name__}")
        if not self.presses and self.default is None:
            raise ValueError("PerLayerPress needs at least one press: pass one for a layer, or a default")
        for layer, press in self.presses.items():
            if isinstance(layer, bool) or not isinstance(layer, int):
                raise TypeError(f"layers must be given by index, got {layer!r}")
            if layer < 0:
                raise ValueError(f"layers are counted from 0, got {layer}")
            _check_press(f"layer {layer}", press)
        if self.default is not None:
            _check_press("default", self.default)

    @property
    def compression_ratio(self) -> float:
        """Mean of the layers' ratios; until a model has been seen, only over the layers in `presses`."""
        layers = range(self._num_layers) if self._num_layers is not None else self.presses
        ratios = [press.compression_ratio if press else 0.0 for press in map(self._press_of, layers)]
        return sum(ratios) / len(ratios) if ratios else self.default.compression_ratio  # type: ignore[union-attr]

    @compression_ratio.setter
    def compression_ratio(self, value: float) -> None:
        raise AttributeError("PerLayerPress has no ratio of its own: set compression_ratio on its presses")

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check the layers' indices and pass the model on to every press."""
        models.check_supported(model)
        num_layers = len(models.attention_layers(model))
        missing = [layer for layer in self.presses if layer >= num_layers]
        if missing:
            raise ValueError(
                f"the model has {num_layers} layers, 0 to {num_layers - 1}, but presses has layer "
                f"{', '.join(map(str, missing))}"
            )
        self._num_layers = num_layers
        told: list[BasePress] = []
        for press in (self._press_of(layer) for layer in range(num_layers)):
            if press is not None and not any(press is other for other in told):
                press.post_init_from_model(model)
                told.append(press)
        warn_of_uneven_layers(self, model)

    def forward_hook(self, module: models.Attention, input: list, kwargs: dict, output: list) -> list:
        """Pass the layer to its press, unless it has sliding-window attention: such layers are left unchanged."""
        press = self._press_of(module.layer_idx)
        if press is None or models.is_sliding(module):
            return output
        return press.forward_hook(module, input, kwargs, output)

    def _press_of(self, layer: int) -> BasePress | None:
        return self.presses.get(layer, self.default)


def _check_press(where: str, press: object) -> None:
    if not isinstance(press, BasePress):
        raise TypeError(f"{where} needs a kvpress press, got {type(press).__name__}: {press!r}")
    hooks_layers = type(press).__call__ is BasePress.__call__ or isinstance(press, LayerwisePress)
    if not hooks_layers or isinstance(press, PerLayerPress):
        raise ValueError(
            f"{where}: {type(press).__name__} runs the entire model and cannot be used for single layers; use it "
            "alone, or choose a press that compresses layer by layer"
        )
