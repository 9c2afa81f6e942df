"""Secrets that must come to the database: encrypted at rest, under a key that is not in it.

The key is derived from NOVAWF_SECRETS_KEY, or from a secret in `var/`. What is encrypted here, and for whom, is not known.
"""

from base64 import urlsafe_b64encode

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class SecretUnreadable(Exception):
    """A secret can't be encrypted or read here; its text says what to do and tells nothing of the secret."""


def encrypt(text: str) -> str:
    """Give a secret as it may be stored.

    :raises SecretUnreadable: this installation has no key to encrypt with.
    """
    return _fernet().encrypt(text.encode()).decode()


def decrypt(stored: str) -> str:
    """Give back what was encrypted.

    :raises SecretUnreadable: it was encrypted under another key, or is damaged.
    """
    try:
        return _fernet().decrypt(stored.encode()).decode()
    except InvalidToken:
        raise SecretUnreadable(
            "It was encrypted under another NOVAWF_SECRETS_KEY. Give that key back, or enter the secret anew."
        ) from None


def _fernet() -> Fernet:
    if not settings.SECRETS_KEY:
        raise SecretUnreadable("NOVAWF_SECRETS_KEY is not set, so no secret can be kept encrypted. Set it and start again.")
    derived = HKDF(SHA256(), length=32, salt=None, info=b"novawf secrets at rest").derive(settings.SECRETS_KEY.encode())
    return Fernet(urlsafe_b64encode(derived))
