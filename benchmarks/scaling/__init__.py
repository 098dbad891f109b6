"""How long a step of decoding would take on 1 to 1,024 ranks, on paper."""
