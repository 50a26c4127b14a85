"""The one exception that commands turn into a single line on stderr and exit status 2."""


class UserError(ValueError):
    """A mistake in data, flags or files that the user can mend; the message names the value and the cure."""


def require(holds: bool, message: str) -> None:
    """Raises UserError(message) unless `holds`."""
    if not holds:
        raise UserError(message)
