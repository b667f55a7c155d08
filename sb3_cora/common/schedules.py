"""Schedules besides those of Stable-Baselines3."""


class LateSchedule:
    """
    A schedule that is constant for the first part of a training and then changes linearly until its end. (The
    ``LinearSchedule`` of Stable-Baselines3 changes from the beginning and may end early.)

    :param start: The value in the first part.
    :param end: The value at the end of the training.
    :param begin: The end of the first part, as a fraction of the training in [0, 1).
    :raises ValueError: If ``begin`` is out of its range.
    """

    def __init__(self, start: float, end: float, begin: float) -> None:
        if not 0 <= begin < 1:
            raise ValueError(f"begin must be in [0, 1), a fraction of the training, got {begin}.")
        self.start = start
        self.end = end
        self.begin = begin

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: The progress remaining, from 1 at the beginning of the training to 0 at its end.
        :return: The value.
        """
        part = max(1.0 - progress_remaining - self.begin, 0.0) / (1.0 - self.begin)
        return self.start + part * (self.end - self.start)

    def __repr__(self) -> str:
        return f"LateSchedule(start={self.start}, end={self.end}, begin={self.begin})"
