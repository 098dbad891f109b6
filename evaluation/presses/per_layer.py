"""A different press for each layer, by name."""

from __future__ import annotations

from typing import Any

from kvpress import BasePress

from pikvpress import PerLayerPress


def per_layer(*, presses: Any) -> PerLayerPress:
    """Return the press for ``per_layer@presses={0-9: knorm, 10: snapkv}``.

    Raises
    ------
    ValueError
        If the setting does not map layers to names of presses.
    """
    from evaluation.presses.spec import parse_press  # imported late: it imports the registry, which uses this function

    if not isinstance(presses, dict) or not presses:
        raise ValueError("write per_layer@presses={0-9: knorm, 10: snapkv}, which maps layers to names of presses")
    made: dict[int, BasePress] = {}
    for where, name in presses.items():
        first, _, last = str(where).partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise ValueError(f"{where!r} is not a layer: write 3, or 3-7")
        spec = parse_press(str(name))
        for layer in range(int(first), int(last or first) + 1):
            press = spec.make(0.5)
            if press is None:
                raise ValueError(f"layer {layer} has {name!r}: omit layers that are not compressed")
            made[layer] = press
    return PerLayerPress(made)
