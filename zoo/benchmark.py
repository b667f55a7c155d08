"""In a clone, ``python zoo/benchmark.py`` is ``python -m sb3_cora.zoo.benchmark``, as in rl-baselines3-zoo."""

from sb3_cora.zoo.benchmark.__main__ import main

if __name__ == "__main__":
    main()
