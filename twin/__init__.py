"""The live plane: bytes → state → forecast → snapshot.

Here: ingress (sockets to RAW), normalizer (RAW to EVENTS), engine (EVENTS to snapshots), replay.
Not here: decoding (interop), SQL (stores), scores' arithmetic (models), pages (clinic).
"""
