"""The error classes for mistakes that the user of a command can fix."""

from mixer_jax.runtime.text import printable


class UserError(ValueError):
    """An error the user can fix: what is wrong, where, and what would work.

    Commands print its message and exit with code 2, without a traceback.
    Control characters in the message are escaped.
    """

    def __str__(self) -> str:
        """Returns the message, with control characters escaped."""
        return printable(super().__str__())


class NewerFormatError(UserError):
    """An error for files that only newer versions of mixer_jax can read."""


class PassingError(UserError):
    """A temporary error: the same command may succeed later; exit code 1."""


class LostError(UserError):
    """Error for a folder or file that another run has taken over."""
