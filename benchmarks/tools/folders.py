"""Where the benchmarks find settings and keep what they measured. Imports no package, for interpreters without this one."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Folder of all CSV files and pictures, unless the command line names another."""
HYPERPARAMS = Path(__file__).resolve().parents[2] / "hyperparams"
"""Folder of the settings of the algorithms."""
