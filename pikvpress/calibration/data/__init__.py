"""What gates are fitted on: texts, and the contexts and futures that are made from them."""
