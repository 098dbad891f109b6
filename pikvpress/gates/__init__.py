"""Fitted gates: their files, how they are found, and the shipped ones."""

from pikvpress.gates.file import Gates, file_name, key, load_gates, save_gates
from pikvpress.gates.find import find_gates, gates_of, user_folder

__all__ = ["Gates", "file_name", "find_gates", "gates_of", "key", "load_gates", "save_gates", "user_folder"]
