"""Named tensors as pieces of a section, and a description that tells how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pikvpress.cache.saving.file import DTYPES, Pieces

# Besides the types of keys and values, those of positions and counts.
KINDS = DTYPES | {"int32": torch.int32, "int64": torch.int64}


def described_tensors(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, list[Any]], list[torch.Tensor]]:
    """Return the type and the shape of each tensor, and the tensors in this order.

    Raises
    ------
    ValueError
        If files do not hold tensors of a type.
    """
    described: dict[str, list[Any]] = {}
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in KINDS:
            raise ValueError(f"{name} is a tensor of {kind}, which cannot be saved: use one of {', '.join(KINDS)}")
        described[name] = [kind, *tensor.shape]
    return described, [*tensors.values()]


def restored_tensors(described: Mapping[str, list[Any]], pieces: Pieces) -> dict[str, torch.Tensor]:
    """Return the tensors that were described so. Nothing is read."""
    return {name: pieces.take(KINDS[kind], *shape) for name, (kind, *shape) in described.items()}
