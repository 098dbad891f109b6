"""Everything that has to be known from a GPU, in one call of ten minutes."""
