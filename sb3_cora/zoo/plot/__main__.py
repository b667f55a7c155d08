"""What ``python -m sb3_cora.zoo.plot`` runs. Its documentation stands in ``command.py``, which ``zoo/plot.py`` needs too."""

from sb3_cora.zoo.plot.command import main

if __name__ == "__main__":
    main()
