"""Codecs by name."""

from __future__ import annotations

import difflib
import re

from pikvpress.cache.codecs import CODECS, Codec
from pikvpress.cache.low_rank import LowRankCodec


def codec(name: str | Codec) -> Codec:
    """Return the codec of a name: "exact", "int8", "int4", "int3", "int2"; "rank16" or of any rank, or "rank16+int2".

    Raises
    ------
    ValueError
        For an unknown name: names the nearest and all known ones.
    """
    if isinstance(name, Codec):
        return name
    if name in CODECS:
        return CODECS[name]
    parts = re.fullmatch(r"rank([1-9]\d*)(?:\+(int\d))?", str(name))
    if parts is not None and (parts[2] is None or parts[2] in CODECS):
        return LowRankCodec(str(name), None, int(parts[1]), CODECS[parts[2]] if parts[2] else None)
    near = difflib.get_close_matches(str(name), CODECS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown codec {name!r}: {hint}known are {', '.join(CODECS)}, rank16 (any rank) and rank16+int2")
