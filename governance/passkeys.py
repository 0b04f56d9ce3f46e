"""Keys inside a browser, a phone or a security key: registering one, and checking what it signed.

Here: the options a page hands to `navigator.credentials`, and judging what comes back, by py_webauthn.
Not here: pages and where challenges wait (clinic.signing_keys), whose key counts (governance.roster).
Source: W3C Web Authentication Level 2, sections 7.1 and 7.2.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import msgspec

from vocabulary.errors import RefusedError


class RegistrationRefusedError(RefusedError):
    """What the browser returned is no registration of a key for us."""


class RelyingParty(NamedTuple):
    """Our name towards browsers: the host of our address, and the address itself."""

    host: str
    origin: str


class Registered(msgspec.Struct, frozen=True):
    """A key that a browser made for a person; it counts once the roster names it."""

    credential: str  # base64url
    public: bytes  # COSE key
    authenticator: str  # AAGUID: the model of the device
    is_synced: bool  # copied between devices by its maker's cloud


class Assertion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key returned when it signed; all base64url."""

    credential: str
    client_data: str
    authenticator_data: str
    signature: str


def registration_options(
    party: RelyingParty, challenge: bytes, person: str, name: str, known: tuple[str, ...] = ()
) -> str:
    """Return the options for `navigator.credentials.create`, as JSON.

    Args:
        party: us.
        challenge: at least 16 random bytes, used once.
        person: issuer and subject; the device keeps a digest of it, not the text.
        name: shown by the device.
        known: credential ids the person has already: one device registers once.
    """
    import hashlib

    from webauthn import generate_registration_options, options_to_json
    from webauthn.helpers import base64url_to_bytes
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        PublicKeyCredentialDescriptor,
        UserVerificationRequirement,
    )

    options = generate_registration_options(
        rp_id=party.host,
        rp_name="Vigil",
        user_name=name,
        user_id=hashlib.sha256(person.encode()).digest(),
        user_display_name=name,
        challenge=challenge,
        authenticator_selection=AuthenticatorSelectionCriteria(user_verification=UserVerificationRequirement.REQUIRED),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=base64url_to_bytes(one)) for one in known],
    )
    return options_to_json(options)


def check_registration(answer: bytes, challenge: bytes, party: RelyingParty) -> Registered:
    """Return the key that a browser registered, once everything about it holds.

    Args:
        answer: what the browser returned, as JSON.
        challenge: what it was given.
        party: us.

    Raises:
        RegistrationRefusedError: another challenge, origin or host, no verified user, or no such answer at all.
    """
    from webauthn import verify_registration_response
    from webauthn.helpers import bytes_to_base64url
    from webauthn.helpers.exceptions import WebAuthnException
    from webauthn.helpers.structs import CredentialDeviceType

    try:
        found = verify_registration_response(
            credential=answer.decode(),
            expected_challenge=challenge,
            expected_rp_id=party.host,
            expected_origin=party.origin,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise RegistrationRefusedError(f"The key could not be registered ({type(error).__name__}).") from None
    return Registered(
        bytes_to_base64url(found.credential_id),
        found.credential_public_key,
        found.aaguid,
        found.credential_device_type is CredentialDeviceType.MULTI_DEVICE,
    )


def assertion_options(party: RelyingParty, challenge: bytes, credentials: tuple[str, ...]) -> str:
    """Return the options for `navigator.credentials.get`, as JSON, for one of a person's keys."""
    from webauthn import generate_authentication_options, options_to_json
    from webauthn.helpers import base64url_to_bytes
    from webauthn.helpers.structs import PublicKeyCredentialDescriptor, UserVerificationRequirement

    return options_to_json(
        generate_authentication_options(
            rp_id=party.host,
            challenge=challenge,
            allow_credentials=[PublicKeyCredentialDescriptor(id=base64url_to_bytes(one)) for one in credentials],
            user_verification=UserVerificationRequirement.REQUIRED,
        )
    )


def check_assertion(
    assertion: Assertion, challenge: bytes, party: RelyingParty, public: bytes, credential: str
) -> bool:
    """Return whether a person's key signed this challenge for us, with its user verified.

    The device's counter is not judged: synced keys have none, and the roster names the key itself.
    """
    from webauthn import verify_authentication_response
    from webauthn.helpers import base64url_to_bytes
    from webauthn.helpers.exceptions import WebAuthnException

    answer = {
        "id": assertion.credential,
        "rawId": assertion.credential,
        "type": "public-key",
        "response": {
            "clientDataJSON": assertion.client_data,
            "authenticatorData": assertion.authenticator_data,
            "signature": assertion.signature,
        },
    }
    try:
        if base64url_to_bytes(assertion.credential) != base64url_to_bytes(credential):
            return False
        verify_authentication_response(
            credential=json.dumps(answer),
            expected_challenge=challenge,
            expected_rp_id=party.host,
            expected_origin=party.origin,
            credential_public_key=public,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError):
        return False
    return True
