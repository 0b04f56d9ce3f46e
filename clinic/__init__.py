"""What people and EHRs see: signing in, the ward board, the patient page, JSON and FHIR, the officers' pages.

Here: rendering published snapshots and what the stores keep; one server process, pages patched by server-sent events;
every route declares what it asks of the policy (clinic.guarding).
Not here: the policy and its audit (governance), computing anything clinical (twin, models), SQL (stores), the bus
(twin.bus).
"""
