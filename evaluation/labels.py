"""Short names of presses for tables and figures, from the `labels` of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pikvpress.support.registry import check_name


def checked_labels(labels: Any, presses: Sequence[str], where: str) -> dict[str, str]:
    """Return a mapping from press names to labels; a press without a label is shown by its name.

    Raises
    ------
    ValueError
        If it is not such a mapping, contains an unknown press, or gives two presses the same label.
    """
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise ValueError(f"{where}: labels must map presses to short names, as in `labels: {{knorm: Knorm}}`")
    for name, label in labels.items():
        check_name(str(name), presses, f"press to label in {where}")
        if not isinstance(label, str) or not label.strip() or set("|\n") & set(label):
            raise ValueError(f"{where}: the label of {name} must be one line of text without '|', got {label!r}")
    shown = {"full cache": "the full cache"}
    for name in presses:
        other = shown.setdefault(labels.get(name, name), name)
        if other != name:
            raise ValueError(f"{where}: {other} and {name} are both called {labels.get(name, name)!r}: rename one")
    return dict(labels)
