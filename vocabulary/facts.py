"""What is told of a patient and is no measurement: orders, medication, documents, alarms, images, genes, gaps.

Here: one shape for all of them, in the sender's own codes, and which kinds there are.
Not here: measurements (vocabulary.records.Observation), decoding (interop), tables (stores.facts).
Source: names and status words of HL7 FHIR R4; the resource each kind becomes stands beside it.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FactKind(StrEnum):
    """What a fact is: a closed list, so that it can be counted."""

    ORDER = "order"  # ServiceRequest: ORM, OML, OMG
    MEDICATION_REQUEST = "medication_request"  # RDE, OMP
    MEDICATION_ADMINISTRATION = "medication_administration"  # RAS, eMAR
    IMMUNIZATION = "immunization"  # VXU
    DOCUMENT = "document"  # DocumentReference: MDM, narrative reports
    REPORT = "report"  # DiagnosticReport: the frame of results, and a radiologist's words
    APPOINTMENT = "appointment"  # SIU
    CONDITION = "condition"  # DG1
    PROCEDURE = "procedure"  # PR1
    ALLERGY = "allergy"  # AllergyIntolerance: AL1, IAM
    COVERAGE = "coverage"  # IN1
    RELATED_PERSON = "related_person"  # NK1: next of kin; a newborn's mother
    ALARM = "alarm"  # PCD-04, SDC alerts
    WAVEFORM = "waveform"  # ORU^W01, SDC sample arrays: samples are in the blob store
    IMAGING_STUDY = "imaging_study"  # ImagingStudy
    IMAGING_WORKLIST = "imaging_worklist"  # a scheduled procedure step
    GENOTYPE = "genotype"  # MolecularSequence, genomics-reporting: star alleles, diplotypes, phenotypes
    GENE_THERAPY = "gene_therapy"  # Procedure: gene-edited cells given
    MICROBIOLOGY = "microbiology"  # Observation: organism and susceptibility
    OTHER = "other"  # kept whole with its own type in `details`, so that nothing vanishes
    GAP = "gap"  # what a door knows it has not heard: from when to when, and why


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One thing told of one patient. A later one with the same kind, authority and identifier replaces it.

    Attributes:
        value_index: place among the message's values, counted from 0, over readings, rejected values and facts.
        identifier: the sender's number of the thing (placer or filler order number, accession, SOP Instance UID,
            document number); "" where it has none: then its code and time tell it from others.
        authority: whose number it is.
        code, code_system: what it is (drug, test, vaccine, organism), as sent.
        text: its words.
        status: FHIR R4's word for the resource it becomes; "" where the sender said nothing.
        effective_at_us: when it was so, or begins; None where not said.
        ended_at_us: when it ends; None where not said.
        details: further names and values, in order, units beside numbers (`("dose", "500 mg")`).
        body: longer text (a report, a document), at most what the message carried.
        blob: digest of a body in the blob store (samples, pixels).
        is_deleted: the sender takes it back.
    """

    value_index: int
    kind: FactKind
    identifier: str = ""
    authority: str = ""
    code: str = ""
    code_system: str = ""
    alternate_code: str = ""
    alternate_system: str = ""
    text: str = ""
    status: str = ""
    effective_at_us: int | None = None
    ended_at_us: int | None = None
    details: tuple[tuple[str, str], ...] = ()
    body: str = ""
    blob: str = ""
    is_deleted: bool = False
