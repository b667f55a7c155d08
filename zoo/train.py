"""In a clone, ``python zoo/train.py`` is ``python -m sb3_cora.zoo.train``, as in rl-baselines3-zoo."""

from sb3_cora.zoo.train import main

if __name__ == "__main__":
    main()
