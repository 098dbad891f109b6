"""A mixture of experts to measure with, where none can be downloaded: a dense model, its MLPs cut into experts.

python -m benchmarks.moefied make --output moefied [--active 6] [--model NAME]
python -m benchmarks.moefied perplexity moefied [--documents 16] [--model NAME]

The first command clusters the neurons of each MLP into equal experts, fits a router, and writes a model that
`from_pretrained` loads. The second one prints the perplexity of held-out documents for each number of active experts.
"""
