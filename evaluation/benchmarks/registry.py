"""The benchmarks by name."""

from __future__ import annotations

from evaluation.benchmarks.aime25 import AIME25
from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.continuation import Continuation
from evaluation.benchmarks.fidelity import Fidelity
from evaluation.benchmarks.infinitebench import InfiniteBench
from evaluation.benchmarks.longbench import LongBench
from evaluation.benchmarks.longbench_e import LongBenchE
from evaluation.benchmarks.longbench_v2 import LongBenchV2
from evaluation.benchmarks.loogle import LooGLE
from evaluation.benchmarks.math500 import Math500
from evaluation.benchmarks.needle import Needle
from evaluation.benchmarks.needle_in_haystack import NeedleInHaystack
from evaluation.benchmarks.rag import Rag, RagFidelity
from evaluation.benchmarks.ruler import Ruler
from evaluation.benchmarks.ruler_kvpress import RulerKvpress
from evaluation.benchmarks.zero_scrolls import ZeroScrolls
from pikvpress.support.registry import Registry

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    {
        benchmark.name: benchmark
        for benchmark in (
            Ruler(),
            Fidelity(),
            Continuation(),
            Needle(),
            RulerKvpress(),
            LongBench(),
            LongBenchE(),
            LongBenchV2(),
            InfiniteBench(),
            LooGLE(),
            ZeroScrolls(),
            NeedleInHaystack(),
            AIME25(),
            Math500(),
            Rag(),
            RagFidelity(),
        )
    },
)
