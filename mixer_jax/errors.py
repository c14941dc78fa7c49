"""The one error that is meant for the person who runs a command."""

from mixer_jax.runtime.text import printable


class UserError(ValueError):
    """Something the user can mend: what was wrong, where, what would work.

    Commands print its sentence and exit with code 2, without a traceback. Its
    text prints everywhere: control characters of user text in it are escaped.
    """

    def __str__(self) -> str:
        """Returns the sentence."""
        return printable(super().__str__())
