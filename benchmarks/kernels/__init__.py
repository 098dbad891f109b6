"""The operations of pikvpress.kernels, with the inputs that they are tested and timed on."""
