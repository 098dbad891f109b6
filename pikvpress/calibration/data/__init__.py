"""The data that gates are fitted on: texts, and the contexts and futures built from them."""
