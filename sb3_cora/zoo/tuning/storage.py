"""Where studies are kept: in a journal file, or in a database such as SQLite or PostgreSQL."""

import os
import time
from importlib.util import find_spec
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from sb3_cora.zoo.tuning.heartbeats import Heartbeats

# How often a worker looks again whether another has finished making the tables of a new database, once a second.
TABLE_ATTEMPTS = 10


class JournalLock(JournalFileOpenLock):
    """
    The lock of a journal file. Whoever gets it first cuts off a last line without end, which a worker was killed in the middle
    of: the next entry would continue it, and no worker could read the journal any more.

    :param path: The journal file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        is_acquired = super().acquire()
        with open(self._path, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            # Entries are much shorter than this, so one of the last bytes ends a line.
            start = max(end - 1_000_000, 0)
            file.seek(max(end - 1, 0))
            if file.read(1) not in (b"", b"\n"):
                file.seek(start)
                file.truncate(start + file.read().rfind(b"\n") + 1)
        return is_acquired


class JournalStudies(Heartbeats, JournalStorage):
    """
    Studies in a journal.

    :param backend: The journal.
    :param grace_period: See ``open_storage``.
    """

    def __init__(self, backend: BaseJournalBackend, grace_period: float) -> None:
        super().__init__(backend)
        self._watch(grace_period)


class DatabaseStudies(Heartbeats, RDBStorage):
    """
    Studies in a database.

    :param url: URL of the database, as SQLAlchemy writes it.
    :param grace_period: See ``open_storage``.
    """

    def __init__(self, url: str, grace_period: float) -> None:
        # SQLite has one lock, for which all workers' heartbeats wait. To a server, connections that were closed during a long
        # trial are made anew.
        is_sqlite = url.startswith("sqlite")
        super().__init__(url, engine_kwargs={"connect_args": {"timeout": 60}} if is_sqlite else {"pool_pre_ping": True})
        self._watch(grace_period)


def open_storage(name: str, grace_period: float = 120.0) -> BaseStorage:
    """
    :param name: A journal file (``logs/study.log`` or ``journal:FILE``), or the URL of a database
        (``sqlite:///logs/study.db``, ``postgresql://user:password@host/database``).
    :param grace_period: Seconds without a heartbeat after which a trial counts as abandoned.
    :return: The storage, made if it does not exist.
    :raises ValueError: If it is neither, or the grace period is not positive.
    :raises ImportError: If there is no driver for PostgreSQL.
    """
    if not grace_period > 0:
        raise ValueError(f"The grace period is {grace_period} seconds, expected a positive number, for example 120.")
    if name.startswith("journal:") or name.endswith(".log"):
        path = Path(name.removeprefix("journal:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStudies(JournalFileBackend(str(path), lock_obj=JournalLock(str(path))), grace_period)
    if "://" not in name:
        raise ValueError(
            f"--storage {name} is neither a journal file, such as logs/study.log or journal:{name}, nor a database, such as "
            "sqlite:///logs/study.db or postgresql://user:password@host/database."
        )
    scheme, _, place = name.partition("://")
    if scheme == "sqlite" and place.startswith("/") and place not in ("/", "/:memory:"):
        Path(place[1:]).parent.mkdir(parents=True, exist_ok=True)
    if scheme == "postgresql" and find_spec("psycopg2") is None:
        # SQLAlchemy would look for psycopg2 alone.
        if find_spec("psycopg") is None:
            raise ImportError('PostgreSQL takes a driver, psycopg: pip install "sb3-cora[postgresql]"')
        name = f"postgresql+psycopg://{place}"
    return _open_database(name, grace_period)


def _open_database(url: str, grace_period: float) -> BaseStorage:
    """
    :param url: URL of the database.
    :param grace_period: See ``open_storage``.
    :return: The storage.
    """
    for attempt in range(TABLE_ATTEMPTS):
        try:
            return DatabaseStudies(url, grace_period)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Another worker makes the same tables.
            is_raced = "already exists" in str(error) or isinstance(error, IntegrityError)
            if not is_raced or attempt == TABLE_ATTEMPTS - 1:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"--storage {url} cannot be opened: {reason}. Give the URL of a database that can."
                ) from error
            time.sleep(1.0)
    raise AssertionError
