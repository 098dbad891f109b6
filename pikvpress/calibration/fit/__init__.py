"""From measurements to fitted parameters: one loop, and what it is given to minimise."""
