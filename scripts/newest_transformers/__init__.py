"""The tests of what needs no kvpress, with a newer transformers than kvpress allows."""
