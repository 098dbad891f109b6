"""The operations of pikvpress.kernels, with inputs for tests and timing."""
