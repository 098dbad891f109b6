"""What the full cache and the experts make of a context, and what a selection of its keys costs."""
