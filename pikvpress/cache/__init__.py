"""A cache that holds what presses leave, and nothing else."""

from pikvpress.cache.codecs import CODECS, Codec, codec
from pikvpress.cache.held import Held
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.pikv_cache import PiKVCache

__all__ = ["CODECS", "Codec", "Held", "PiKVCache", "PiKVLayer", "codec"]
