"""kvpress's own test suite, run with pikvpress: `python -m scripts.kvpress_suite /path/to/kvpress`."""
