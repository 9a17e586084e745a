"""What a user may meet: one message (place: what is wrong, got, wanted), one hint (the next step), one exit code."""


class MedpeftError(Exception):
    """An error that is the user's to mend. `cli.main` prints it in at most a few lines, never as a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint


class RecipeError(MedpeftError):
    """Arguments or recipe are wrong: unknown name, wrong type, a method that does not fit the backbone."""

    exit_code = 2


class DataError(MedpeftError):
    """Data, weights or a record are missing, damaged, or not what the card says."""

    exit_code = 3


class RunError(MedpeftError):
    """Training or scoring failed: non-finite loss, out of memory, disk full."""

    exit_code = 4
