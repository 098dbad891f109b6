"""From measurements to fitted parameters: one training loop, and its losses."""
