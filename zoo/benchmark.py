"""In a clone, ``python zoo/benchmark.py`` is ``python -m sb3_cora.zoo.benchmark``."""

from sb3_cora.zoo.benchmark import main

if __name__ == "__main__":
    main()
