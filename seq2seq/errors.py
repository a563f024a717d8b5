"""How work ends that does not end well: by a user's mistake, or by a user's wish."""


class UserError(Exception):
    """Something the user can mend: a missing file, a misspelt key, a broken corpus.

    The command line prints its message as one line and leaves with status 1. Anything
    that is not a ``UserError`` is a defect of this program and keeps its traceback.
    """


class Diverged(UserError):  # noqa: N818 (said of a training)
    """A training whose loss is no longer a number."""


class Impossible(ValueError):  # noqa: N818 (reads better where it is raised)
    """Settings that exclude each other.

    Args:
        key: the setting to change, as its section calls it.
        complaint: what is wrong with it.
    """

    def __init__(self, key: str, complaint: str) -> None:
        super().__init__(complaint)
        self.key = key


class Stopped(Exception):  # noqa: N818 (no error: the user asked for it)
    """Work that a signal ended early, after saving what it had.

    Args:
        message: how to go on, as one line.
        signal_number: the signal; the process leaves with 128 plus it, as shells expect.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
