"""Bytes to records and back: what the hospital's other systems say, in the standards they speak.

Here: framing, decoding and encoding of wire formats, and the maps from their codes and units to ours.
Not here: sockets (twin.ingress), clocks (the zone and the time are passed in), storage (stores), patients' identities
(twin.directory). Nothing in this room raises on bad data: it answers with a `records.Rejected`.
Source: HL7 v2.3 to v2.9; IHE PCD Technical Framework, Device Enterprise Communication.
"""
