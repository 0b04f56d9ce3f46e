"""What is kept: ledger, time series, clinical records, snapshots, blobs. PostgreSQL and files; no bus, no clock.

Here: numbered SQL migrations and the only code that speaks SQL.
Not here: deciding what a record means (twin, governance), rendering it (clinic).
"""
