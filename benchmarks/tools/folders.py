"""Where the benchmarks keep what they measured."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""Folder of all CSV files and pictures, unless the command line names another."""
