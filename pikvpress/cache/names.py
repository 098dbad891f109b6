"""Codecs by name."""

from __future__ import annotations

import re

from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import CODECS
from pikvpress.cache.low_rank import LowRankCodec
from pikvpress.support.registry import unknown


def codec(name: str | Codec) -> Codec:
    """Return the codec with a given name: one of `CODECS`, "rank16" (with any rank), or "rank16+int2".

    Raises
    ------
    ValueError
        For an unknown name; the message lists the most similar and all known names.
    """
    if isinstance(name, Codec):
        return name
    if name in CODECS:
        return CODECS[name]
    parts = re.fullmatch(r"rank([1-9]\d*)(?:\+(int\d))?", str(name))
    if parts is not None and (parts[2] is None or parts[2] in CODECS):
        return LowRankCodec(str(name), None, int(parts[1]), CODECS[parts[2]] if parts[2] else None)
    raise ValueError(unknown("codec", name, CODECS, more=", rank16 (any rank) and rank16+int2"))
