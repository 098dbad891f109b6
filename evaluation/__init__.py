"""The long-context benchmark harness: ``python -m evaluation run …`` and ``python -m evaluation report …``."""
