"""In a clone, ``python zoo/enjoy.py`` is ``python -m sb3_cora.zoo.enjoy``, as in rl-baselines3-zoo."""

from sb3_cora.zoo.enjoy import main

if __name__ == "__main__":
    main()
