"""Replace DynamicCache by PiKVCache in all modules that use the name."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from transformers import DynamicCache

from pikvpress import PiKVCache

REPLACED_IN = ("kvpress", "transformers")
# Modules in which transformers creates caches; imported beforehand, so that the name is present.
MAKERS = ("transformers", "transformers.generation.utils", "transformers.models.llama.modeling_llama")


class StandInCache(PiKVCache):
    """A PiKVCache with the signature of DynamicCache, whose arguments it ignores."""

    made: list[StandInCache] = []  # noqa: RUF012 - of the test that runs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.made.append(self)


def replace() -> None:
    """Make every later `DynamicCache(...)` a PiKVCache, in loaded modules and in those imported later.

    Classes derived from DynamicCache are not changed.
    """
    for name in MAKERS:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        names = vars(module)
        if name.split(".")[0] in REPLACED_IN and names.get("DynamicCache") is DynamicCache:
            names["DynamicCache"] = StandInCache
    vars(sys.modules["transformers"])["DynamicCache"] = StandInCache  # it looks up names lazily
