"""Numbers of things that users give."""

import numpy as np


def check_count(name: str, value: int, least: int = 1) -> None:
    """
    :param name: Name of an argument, for the error message.
    :param value: Its value.
    :param least: The smallest value allowed.
    :raises ValueError: If the value is not an integer, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}={value!r}, expected an integer of at least {least}.")
