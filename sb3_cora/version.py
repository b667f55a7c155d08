"""The version of this package, in a file of its own so that all its parts may know it."""

__version__ = "1.0.0"
