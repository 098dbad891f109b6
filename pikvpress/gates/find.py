"""Finding the gates of a model: first those that the user fitted, then the shipped ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from pikvpress import models
from pikvpress.gates.file import Gates, file_name, load_gates
from pikvpress.ranks import shard_of

SHIPPED = Path(str(files("pikvpress.gates"))) / "shipped"


def user_folder() -> Path:
    """Return the folder for fitted gates: ``$PIKVPRESS_GATES``, by default ``~/.cache/pikvpress/gates``."""
    return Path(os.environ.get("PIKVPRESS_GATES", "~/.cache/pikvpress/gates")).expanduser()


def find_gates(model: Mapping[str, str]) -> Gates | None:
    """Return the gates fitted for a model with this fingerprint, or None.

    Raises
    ------
    ValueError
        If there is a file for the model that cannot be used.
    """
    for folder in (user_folder(), SHIPPED):
        path = folder / file_name(model)
        if path.is_file():
            gates = load_gates(path)
            gates.check_model(model)
            return gates
    return None


def gates_of(attention: models.Attention) -> Gates | None:
    """Return the gates fitted for the model of an attention module, its first, or None.

    If the model is split over ranks, all of them must find the same ones.

    Raises
    ------
    ValueError
        If there is a file for the model that cannot be used, or ranks find different gates; on every rank.
    """
    fingerprint, shard = models.fingerprint(attention), shard_of(attention)
    with shard.together(attention.o_proj.weight.device):
        found = find_gates(fingerprint)
    shard.agree({"gates": None if found is None or shard.is_whole else found.digest()})
    return found
