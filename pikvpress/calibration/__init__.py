"""Fitting gates."""
