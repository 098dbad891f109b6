"""Gates: a router's fitted parameters, one safetensors file with what they belong to."""

from pikvpress.gates.file import check_gates, load_gates, save_gates

__all__ = ["check_gates", "load_gates", "save_gates"]
