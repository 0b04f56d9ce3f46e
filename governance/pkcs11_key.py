"""A master key that never leaves its token: an AES-256 key inside a PKCS#11 module wraps and unwraps for us.

Here: one key of one token, with a session that is opened again when the token lost it.
Not here: which master key is used (governance.master_key).
Source: PKCS #11 v3.0 (OASIS), CKM_AES_GCM; RFC 7512 for the idea of an address.
"""

from __future__ import annotations

import os
import threading
import urllib.parse
from contextlib import suppress
from typing import Any, NamedTuple

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as faults

from vocabulary.errors import BrokenInvariantError, ConfigurationError, UnavailableError

_NONCE_BYTES = 12
_ID_BYTES = 8
_LOST = (
    faults.SessionHandleInvalid,
    faults.SessionClosed,
    faults.ObjectHandleInvalid,
    faults.KeyHandleInvalid,
    faults.DeviceError,
    faults.DeviceRemoved,
    faults.TokenNotPresent,
    faults.UserNotLoggedIn,
    faults.FunctionFailed,
)
"""What a token says that was restarted, or that ended our session: worth one more try with a new one."""


class TokenAddress(NamedTuple):
    """`pkcs11:<module path>?token=<label>&key=<label>`, in its parts."""

    module: str
    token: str
    key: str


def parse(address: str) -> TokenAddress:
    """Split an address.

    Raises:
        ConfigurationError: a part is missing.
    """
    module, _, query = address.removeprefix("pkcs11:").partition("?")
    fields = urllib.parse.parse_qs(query)
    try:
        if not module:
            raise KeyError
        return TokenAddress(module, fields["token"][0], fields["key"][0])
    except KeyError:
        raise ConfigurationError(
            "A master key in a token is written pkcs11:<module path>?token=<label>&key=<label>."
        ) from None


class Pkcs11Key:
    """An AES-256 key inside a token; wraps with AES-GCM there."""

    source = "pkcs11"

    def __init__(self, address: str, pin: str | None, *, is_new: bool = False) -> None:
        """Open a session and find the key.

        Args:
            address: see `parse`.
            pin: the user's PIN; None where the token asks for none.
            is_new: generate the key, which must not be there yet: 256 bits, not extractable.

        Raises:
            ConfigurationError: module, token, PIN or key are not usable; says which.
        """
        self.address = address
        self._where = parse(address)
        self._pin = pin
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._session: Any = None
        self._key: Any = None
        with self._lock:
            self.key_id = self._open(is_new=is_new)

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Return a data key wrapped inside the token for one context.

        Raises:
            UnavailableError: the token does not answer.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + bytes(self._call("encrypt", data_key, nonce, context))

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the data key.

        Raises:
            BrokenInvariantError: it was changed, or wrapped for another context.
            UnavailableError: the token does not answer.
        """
        if len(wrapped) <= _NONCE_BYTES + 16:
            raise BrokenInvariantError(f"a data key under master key {self.key_id} is cut off: restore its row")
        try:
            return bytes(self._call("decrypt", wrapped[_NONCE_BYTES:], wrapped[:_NONCE_BYTES], context))
        except (faults.EncryptedDataInvalid, faults.EncryptedDataLenRange, faults.GeneralError):
            # SoftHSM says "general error" where the tag is wrong, and so does a token that is out of order: ask it for
            # something that must succeed.
            self._call("encrypt", bytes(16), os.urandom(_NONCE_BYTES), b"")
            raise BrokenInvariantError(
                f"a data key does not unwrap under master key {self.key_id}: its row was changed. Restore it from the "
                "backup of keys."
            ) from None

    def destroy(self) -> None:
        """Destroy the key inside the token, for ever.

        Raises:
            UnavailableError: the token refuses.
        """
        with self._lock:
            self._end()  # it may be read-only
            self._open(is_new=False, writes=True)
            try:
                self._key.destroy()
            except faults.PKCS11Error as error:
                raise UnavailableError(
                    f"The token {self._where.token} did not destroy its key: {_said(error)}."
                ) from None

    def close(self) -> None:
        """End the session."""
        with self._lock:
            if self._session is not None and self._process == os.getpid():
                self._end()

    def _end(self) -> None:
        session, self._session, self._key = self._session, None, None
        if session is None:
            return
        with suppress(faults.PKCS11Error):  # the token may have ended it first
            session.close()

    def _call(self, name: str, data: bytes, nonce: bytes, context: bytes) -> bytes:
        if self._process != os.getpid():
            # PKCS #11 leaves a forked child without a usable module: calls there may hang or crash.
            raise BrokenInvariantError("a token's session does not survive a fork: open the master key in the child")
        parameters = GCMParams(nonce=nonce, aad=context, tag_bits=128)
        with self._lock:
            for attempt in (1, 2):
                try:
                    if self._key is None:
                        self._open(is_new=False)
                    done: bytes = getattr(self._key, name)(
                        data, mechanism=Mechanism.AES_GCM, mechanism_param=parameters
                    )
                    return done
                except faults.GeneralError as error:
                    if name == "encrypt":
                        raise UnavailableError(
                            f"The token {self._where.token} does not work: {_said(error)}."
                        ) from None
                    raise
                except _LOST as error:
                    self._end()
                    if attempt == 2:
                        raise UnavailableError(
                            f"The token {self._where.token} does not answer: {_said(error)}."
                        ) from None
                except ConfigurationError as error:
                    if attempt == 2:
                        raise UnavailableError(str(error)) from None
                    raise
        raise AssertionError("unreachable")

    def _open(self, *, is_new: bool, writes: bool = False) -> str:
        module, label, key = self._where
        try:
            library = pkcs11.lib(module)
        except (RuntimeError, OSError) as error:
            raise ConfigurationError(f"The PKCS#11 module {module} cannot be loaded: {type(error).__name__}.") from None
        try:
            token = library.get_token(token_label=label)
        except faults.NoSuchToken:
            found = ", ".join(sorted(slot.label for slot in library.get_tokens())) or "none"
            raise ConfigurationError(f"No token is called {label!r}; the module knows: {found}.") from None
        except faults.PKCS11Error as error:
            raise ConfigurationError(f"The PKCS#11 module {module} does not answer: {_said(error)}.") from None
        if Mechanism.AES_GCM not in token.slot.get_mechanisms():
            raise ConfigurationError(f"The token {label!r} does not offer AES-GCM, which wraps data keys.")
        try:
            self._session = token.open(rw=is_new or writes, user_pin=self._pin)
        except faults.UserAlreadyLoggedIn:
            self._session = token.open(
                rw=is_new or writes
            )  # by another session of this process: logins are per process
        except (faults.PinIncorrect, faults.PinInvalid, faults.PinLenRange, faults.ArgumentsBad):
            raise ConfigurationError(f"The token {label!r} refuses the PIN. Set VIGIL_MASTER_KEY_PIN.") from None
        except faults.PinLocked:
            raise ConfigurationError(f"The token {label!r} is locked after too many wrong PINs.") from None
        except faults.PKCS11Error as error:
            raise ConfigurationError(f"The token {label!r} cannot be opened: {_said(error)}.") from None
        try:
            self._key = self._made(key) if is_new else self._found(key)
            return bytes(self._key.id).hex()
        except BaseException:
            self._end()
            raise

    def _found(self, label: str) -> Any:  # noqa: ANN401 — the module's own class of keys
        keys = list(
            self._session.get_objects(
                {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.LABEL: label}
            )
        )
        if len(keys) != 1:
            said = "has no AES key" if not keys else f"has {len(keys)} AES keys"
            raise ConfigurationError(
                f"The token {self._where.token!r} {said} called {label!r}. `vigil keys master --create` makes it."
            )
        if len(bytes(keys[0].id)) != _ID_BYTES:
            raise ConfigurationError(f"The key {label!r} has no id of {_ID_BYTES} bytes: it was not made by Vigil.")
        return keys[0]

    def _made(self, label: str) -> Any:  # noqa: ANN401
        if list(self._session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label})):
            raise ConfigurationError(f"The token {self._where.token!r} has a key called {label!r} already.")
        try:
            return self._session.generate_key(
                KeyType.AES,
                256,
                id=os.urandom(_ID_BYTES),
                label=label,
                store=True,
                template={
                    Attribute.EXTRACTABLE: False,
                    Attribute.SENSITIVE: True,
                    Attribute.PRIVATE: True,
                    Attribute.ENCRYPT: True,
                    Attribute.DECRYPT: True,
                },
            )
        except faults.PKCS11Error as error:
            raise ConfigurationError(f"The token {self._where.token!r} made no key: {_said(error)}.") from None


def _said(error: Exception) -> str:
    return type(error).__name__
