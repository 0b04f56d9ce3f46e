"""Authority and evidence: who asks and may, audit, keys; later the registry, approvals, what is serving, rollback.

Here: decisions that people sign and machines check. Who somebody is (tokens, oidc), what the table permits (access,
policy_table), deciding and recording (gate, audit), breaking the glass, what protects data (privacy, master_key), whose
signature counts (roster, trust).
Not here: computing the evidence (validation, assets), the live plane that obeys (twin), wiring (orchestration).
"""
