"""Where a model's weights are, if accelerate has put its layers on several devices or offloaded them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def devices_of(model: Any) -> set[torch.device]:
    """Return the devices that hold weights of a model; "meta" if accelerate fetches some only while they are used."""
    return {parameter.device for parameter in model.parameters()}


@contextmanager
def weights_at_hand(module: Any) -> Iterator[None]:
    """Fetch a module's own weights where accelerate has offloaded them; calling the module does so by itself.

    Parameters
    ----------
    module : nn.Module
        A module with weights of its own, such as a projection.
    """
    hook = getattr(module, "_hf_hook", None)
    if hook is None or not any(weight.is_meta for weight in module.parameters(recurse=False)):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)
