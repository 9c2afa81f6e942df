"""The key of a provider account, for callers of models only: read from where the account says when it is needed, never kept."""

import os
from pathlib import Path

from safety.encryption import SecretUnreadable, decrypt
from safety.models import ProviderAccount

_Source = ProviderAccount.KeySource


class KeyUnavailable(Exception):
    """An account's key can't be read. Its text does not tell where it was looked for."""


def key_of(account: ProviderAccount) -> str:
    """Give an account's key; empty if it needs none.

    :raises KeyUnavailable: it is not where the account says.
    """
    where = account.key_location
    problem, key = "there is nothing", ""
    try:
        if account.key_source == _Source.NONE:
            return ""
        if account.key_source == _Source.ENVIRONMENT:
            key, problem = os.environ.get(where, ""), "its environment variable is not set for the workers, or empty"
        elif account.key_source == _Source.FILE:
            problem = "its file is empty"
            key = Path(where).read_text()
        else:
            key = decrypt(account.encrypted_key)
    except (OSError, UnicodeDecodeError):
        problem = "its file can't be read"
    except SecretUnreadable as error:
        raise KeyUnavailable(f"The key of provider account {account.slug} can't be read: {error}") from None
    if not key.strip() or not key.strip().isascii():
        raise KeyUnavailable(f"The key of provider account {account.slug} can't be read: {problem}.")
    return key.strip()
