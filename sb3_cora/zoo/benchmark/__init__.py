"""
Trains what a suite names, algorithms on environments over games and seeds, and collects their results in one table:
``python -m sb3_cora.zoo.benchmark``.
"""
