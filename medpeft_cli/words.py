"""Words of messages."""


def counted(number: int, one: str, more: str | None = None) -> str:
    """Return a number with its noun, or with all that changes beside it: "1 picture is", "1,200 pictures are".

    Args:
        number: how many.
        one: what follows 1.
        more: what follows any other number; None = `one` and an s.
    """
    return f"{number:,} {one if number == 1 else more or one + 's'}"
