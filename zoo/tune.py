"""In a clone, ``python zoo/tune.py`` is ``python -m sb3_cora.zoo.tune``."""

from sb3_cora.zoo.tune import main

if __name__ == "__main__":
    main()
