"""Files that are written whole or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4


def write_whole(writers: Mapping[Path, Callable[[Path], object]], shared: bool = False) -> None:
    """
    Write files that belong together. If the process is killed meanwhile, the previous files remain.

    :param writers: For each file, in the order in which they take their places, what writes it to the path that it is given,
        at which there is none yet. Folders are made where there are none.
    :param shared: Whether other processes may write the same files at the same time. What a killed one leaves behind stays
        then, while otherwise the next call takes it away.
    """
    own = f".{uuid4().hex}" if shared else ""
    unfinished = {target: target.with_name(f"{target.name}{own}.unfinished") for target in writers}
    # Files are renamed only after all are written, because they belong together.
    for target, write in writers.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished[target].unlink(missing_ok=True)
        write(unfinished[target])
    for target, written in unfinished.items():
        written.replace(target)
