"""Operations on plain tensors, one folder each; `reference.py` in a folder is the operation's definition.

Nothing here depends on transformers or kvpress. Shapes use B = batch, H = KV heads, G = queries per KV head,
T = keys, Q = queries, D = head size, E = experts.
"""
