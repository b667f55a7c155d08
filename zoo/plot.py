"""In a clone, ``python zoo/plot.py`` is ``python -m sb3_cora.zoo.plot``, as in rl-baselines3-zoo."""

from sb3_cora.zoo.plot import main

if __name__ == "__main__":
    main()
