"""
Benchmarks: a suite names algorithms, environments, games and seeds, and all that it trains is collected in one table:
``python -m sb3_cora.zoo.benchmark``.
"""

from sb3_cora.zoo.benchmark.command import main

__all__ = ["main"]
