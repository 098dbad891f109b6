"""The demo: a real model answers questions over a long document from a compressed cache."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.demo.facts import DemoQuestion, demo_document
from pikvpress.demo.run import Result, contestants, run
from pikvpress.demo.table import answers_table, results_table

__all__ = ["DemoQuestion", "Result", "answers_table", "contestants", "demo_document", "results_table", "run"]
