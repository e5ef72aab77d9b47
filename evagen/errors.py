"""Errors that are the user's to fix. The command line prints their text alone, without a traceback."""


class UserError(Exception):
    """Bad input. The message says what was given, what was expected, and what to do."""
