"""A hospital to watch: a synthetic ward, recorded stays, a load generator, a development OpenID provider.

Here: what makes messages and sends them to sockets, as a real EHR, monitor gateway and laboratory would.
Not here: anything of the platform. The hospital imports only `vocabulary`; nobody but tests imports it. Its encoders
are written from HL7's and IHE's text, so that they are an independent witness against `interop`.
Every patient the generator makes is invented: medical record numbers begin with SYN and names carry HL7's type S.
"""
