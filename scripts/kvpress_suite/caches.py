"""Puts PiKVCache in the place of DynamicCache, wherever that name has got to."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from transformers import DynamicCache

from pikvpress import PiKVCache

REPLACED_IN = ("kvpress", "transformers")
# Where transformers makes caches by itself; imported beforehand, so that the name is there.
MAKERS = ("transformers", "transformers.generation.utils", "transformers.models.llama.modeling_llama")


class StandInCache(PiKVCache):
    """A PiKVCache that is made as a DynamicCache is, whose arguments it ignores."""

    made: list[StandInCache] = []  # noqa: RUF012 - of the test that runs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.made.append(self)


def replace() -> None:
    """Make every later `DynamicCache(...)` a PiKVCache, in modules that are there and in those still to come.

    A class that a module derives from DynamicCache stays what it is.
    """
    for name in MAKERS:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        names = vars(module)
        if name.split(".")[0] in REPLACED_IN and names.get("DynamicCache") is DynamicCache:
            names["DynamicCache"] = StandInCache
    vars(sys.modules["transformers"])["DynamicCache"] = StandInCache  # it looks names up when they are asked for
