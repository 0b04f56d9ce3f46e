"""The ledger's writers, each signing with its own process's key.

Here: a writer made from a process's settings.
Not here: the chain (stores.ledger, stores.chain), who is believed (governance.notary).
"""

from __future__ import annotations

from governance.notary import heads_of
from stores.ledger import LedgerWriter
from vocabulary.settings import Settings
from vocabulary.signing import SigningKey
from vocabulary.tls import Identity


def ledger_writer(settings: Settings, writer: str) -> LedgerWriter:
    """Return a writer that signs with this process's key and keeps its chain's end outside of the database.

    A process without an identity (a test, a program by hand) writes unsigned rows, which `vigil verify` tells.

    Args:
        settings: of the process.
        writer: names the chain; begins with the process's name.

    Raises:
        ConfigurationError: the identity has no usable key.
    """
    if settings.identity_dir is None:
        return LedgerWriter(writer)
    return LedgerWriter(writer, SigningKey.load(Identity(settings.identity_dir).ledger_key), heads_of(settings))
