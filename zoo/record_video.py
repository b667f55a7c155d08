"""In a clone, ``python zoo/record_video.py`` is ``python -m sb3_cora.zoo.record_video``, as in rl-baselines3-zoo."""

from sb3_cora.zoo.record_video import main

if __name__ == "__main__":
    main()
