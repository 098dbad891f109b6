"""What is fitted to a model needs all of it in one process, on one device."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.devices import devices_of
from pikvpress.ranks import shard_of


def check_in_one_place(model: PreTrainedModel, task: str, result: str) -> None:
    """Raise a ``ValueError`` if a supported model is split over ranks, lies on several devices, or is offloaded.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    task, result : str
        What is to be done in one place, and what then serves everywhere, for the message: "calibrate it", "its gates
        then serve".
    """
    if not shard_of(models.attention_layers(model)[0]).is_whole:
        raise ValueError(
            "this model is split over ranks, of which each would see only its own heads: "
            f"{task} in one process; {result} any number of ranks"
        )
    devices = devices_of(model)
    if len(devices) > 1 or torch.device("meta") in devices:
        raise ValueError(
            "layers of this model are on several devices or offloaded, and measurements of all are kept on one: "
            f"{task} on one device; {result} wherever its layers are"
        )
