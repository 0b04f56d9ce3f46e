"""Evidence in, verdict out: expectations, drift, bias, clinical validation, and the protocols they are judged by.

Here: pure judgements, and the versioned protocol files with their clinical thresholds.
Not here: fetching the evidence (assets), who signs (governance), scoring a patient (models.risk).
"""
