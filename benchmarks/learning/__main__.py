"""Runs ``sweep``, whose functions the processes of a sweep have to find by the name of their module."""

from benchmarks.learning.sweep import main

if __name__ == "__main__":
    main()
