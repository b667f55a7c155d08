"""What vector environments that step all their worlds at once have in common."""

import numpy as np
from stable_baselines3.common.vec_env import VecEnv


class BatchVecEnv(VecEnv):
    """A ``VecEnv`` whose worlds are one batch in one process."""

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """
        :param mode: ``"rgb_array"`` for a picture of all worlds, ``"human"`` for a window
        :return: the picture, ``(height, width, 3)`` of uint8, with ``"rgb_array"``
        :raises ImportError: if OpenCV, in whose window SB3 shows pictures, is not installed
        """
        try:
            return super().render(mode)
        except ModuleNotFoundError as error:
            if error.name != "cv2":
                raise
            raise ImportError(
                'render("human") shows its pictures in a window of OpenCV, which is not installed: pip install opencv-python'
            ) from error
