"""Exceptions for what a user can mend."""


class UserError(Exception):
    """Bad input: the message is one line that names the file, key or value and says how to mend it.

    Command-line entry points print it without a traceback and exit with status 1.
    """


class TrainingDiverged(UserError, FloatingPointError):
    """A loss or prediction became infinite or NaN."""
