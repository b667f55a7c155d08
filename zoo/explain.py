"""In a clone, ``python zoo/explain.py`` is ``python -m sb3_cora.zoo.explain``, as in rl-baselines3-zoo."""

from sb3_cora.zoo.explain import main

if __name__ == "__main__":
    main()
