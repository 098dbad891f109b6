"""Codecs by name."""

from __future__ import annotations

import pytest

from pikvpress.cache import CODECS, Codec, RotatedCodec
from pikvpress.cache.codecs import EXACT


def test_names_say_kind_and_bits():
    assert EXACT is CODECS["exact"] and EXACT.bits is None
    for name, codec in CODECS.items():
        assert codec.name == name and name in ("exact", f"int{codec.bits}", f"rot{codec.bits}")
        assert isinstance(codec, RotatedCodec if name.startswith("rot") else Codec)


def test_unknown_codecs_name_the_nearest():
    with pytest.raises(ValueError, match="unknown codec 'rot5': did you mean rot"):
        CODECS["rot5"]
