"""Short names of presses."""

from __future__ import annotations

import pytest

from evaluation.labels import checked_labels


def test_presses_without_a_label_keep_their_name():
    assert checked_labels(None, ["knorm"], "a study") == {}
    assert checked_labels({"knorm": "Knorm"}, ["knorm", "tova"], "a study") == {"knorm": "Knorm"}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("Knorm", "a study: labels must map presses to short names"),
        ({"knrm": "Knorm"}, "knrm.*knorm"),
        ({3: "Knorm"}, "3.*knorm"),
        ({"knorm": ""}, "the label of knorm must be one line of text"),
        ({"knorm": 7}, "the label of knorm must be one line of text"),
        ({"knorm": "a|b"}, "without '|'"),
        ({"knorm": "tova"}, "knorm and tova are both called 'tova': rename one"),
        ({"knorm": "full cache"}, "the full cache and knorm are both called"),
    ],
)
def test_labels_that_mislead_are_refused(labels, said):
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        checked_labels(labels, ["knorm", "tova"], "a study")
