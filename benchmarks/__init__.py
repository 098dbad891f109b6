"""Measurements that `make bench` prints: what presses cost, and how close to the full cache they stay."""
