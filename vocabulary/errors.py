"""Named errors, by the treatment they need.

Here: what more than one room raises or handles. Bad data is no exception: see records.Rejected.
Not here: errors only one module raises and handles (they live beside it).
"""


class VigilError(Exception):
    """Any error Vigil names. The message says what was expected, found, where, and what to do; no patient data."""


class BrokenInvariantError(VigilError):
    """The program's own promise does not hold. Stops the shard at once; never caught to carry on."""


class FencedOutError(BrokenInvariantError):
    """Another process owns this position (its epoch is newer). Stop and let the owner work."""


class UnavailableError(VigilError):
    """An expected failure of something outside (network, server, lock, full queue). The edge may retry."""


class StreamFullError(UnavailableError):
    """The RAW stream refuses more bytes. Senders get no ACK until there is room; nothing acknowledged is lost."""


class ConfigurationError(VigilError):
    """A setting, port, binary or data directory is not usable. Says what to change."""


class RefusedError(VigilError):
    """A rule forbids it (no approval, no access). Audited where it is decided."""
