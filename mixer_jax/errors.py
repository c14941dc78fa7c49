"""The one error that is meant for the person who runs a command."""


class UserError(ValueError):
    """Something the user can mend: what was wrong, where, what would work.

    Commands print its sentence and exit with code 2, without a traceback.
    """
