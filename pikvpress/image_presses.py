"""Presses around a model that reads images: kvpress puts them around the text half, and scorers see its rotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing

# isort: split
from kvpress import BasePress, FinchPress, KeyRerotationPress
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.decoders import decoder_at_hand
from pikvpress.images import images_watched

# They rotate the keys that are left to consecutive positions, as if all were of text.
MOVING = (KeyRerotationPress, FinchPress)


def install() -> None:
    """Wrap what all presses of kvpress call when they are put around a model; without images it is unchanged."""
    BasePress.__call__ = _on_images  # type: ignore[method-assign]


_on_text = BasePress.__call__


@wraps(_on_text)
@contextmanager
def _on_images(self: BasePress, model: PreTrainedModel) -> Iterator[None]:
    if not hasattr(models.unwrapped(model), "model") or not hasattr(models.language_model(model), "rotary_emb"):
        with _on_text(self, model):  # which says what is missing
            yield
        return
    _check_moving(self, model)
    with decoder_at_hand(model), _on_text(self, model), images_watched(model):
        yield


def _check_moving(press: BasePress, model: PreTrainedModel) -> None:
    """Raise a ``ValueError`` if a press moves keys of a model whose positions it does not know."""
    inside = [press, *vars(press).values()]
    for several in [one for one in inside if isinstance(one, list | tuple | Mapping)]:
        inside += several.values() if isinstance(several, Mapping) else several
    moving = next(
        (type(one).__name__ for one in inside if isinstance(one, MOVING) and getattr(one, "rerotate_keys", True)), None
    )
    if moving is not None and models.is_multimodal(models.language_model(model).rotary_emb):
        raise ValueError(
            f"{moving} rotates keys as if all were of text, but {type(model).__name__} counts positions of images "
            "along three axes: use a press that leaves keys where they are"
        )
