"""What people and EHRs see: the ward board, the patient page, JSON and FHIR.

Here: rendering published snapshots and what the stores keep; one server process, pages patched by server-sent events.
Not here: computing anything clinical (twin, models), SQL (stores), the bus (twin.bus).
"""
