"""The hyperparameter search of ``-optimize``, one concern a file: storage, budget, failures, games, entries, reports."""
