"""Measurements of a context with the full cache and the experts, and the cost of selecting its keys."""
