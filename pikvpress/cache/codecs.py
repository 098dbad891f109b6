"""All codecs whose names have no parameter, by name."""

from pikvpress.cache.codec import Codec
from pikvpress.cache.rotated import RotatedCodec
from pikvpress.support.registry import Registry

CODECS: Registry[Codec] = Registry(
    "codec",
    {
        "exact": Codec("exact"),
        **{f"int{bits}": Codec(f"int{bits}", bits) for bits in (8, 4, 3, 2)},
        **{f"rot{bits}": RotatedCodec(f"rot{bits}", bits) for bits in (4, 3, 2, 1)},
    },
)
EXACT = CODECS["exact"]

__all__ = ["CODECS", "EXACT", "Codec"]
