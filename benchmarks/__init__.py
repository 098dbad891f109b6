"""Speed and memory benchmarks for `make bench`; `evaluation` measures the quality of answers."""
