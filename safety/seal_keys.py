"""The key that signs seals: Ed25519, made from NOVAWF_SEAL_KEY or a secret in `var/`, never in the database.

Whoever has only the public key can check a seal and can't make one. What a seal says is not known here.
"""

from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class NoSealKey(Exception):
    """This installation has no key to sign seals with. Nothing was sealed."""


def public_key() -> str:
    """Give the public key of this installation, hex; empty: it has no key."""
    if not settings.SEAL_KEY:
        return ""
    return _private(settings.SEAL_KEY).public_key().public_bytes_raw().hex()


def key_id(public: str) -> str:
    """Give the short name of a public key: 16 hex digits of its digest."""
    return sha256(bytes.fromhex(public)).hexdigest()[:16]


def sign(text: bytes) -> str:
    """Sign a text; give the signature as hex.

    :raises NoSealKey: there is no key.
    """
    if not settings.SEAL_KEY:
        raise NoSealKey("NOVAWF_SEAL_KEY is not set, so the journal can't be sealed. Set it and start again.")
    return _private(settings.SEAL_KEY).sign(text).hex()


def is_signed(text: bytes, signature: str, public: str) -> bool:
    """Tell whether a signature of this text was made with the key that belongs to the public one."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def trusted() -> frozenset[str]:
    """Give the public keys whose seals are ours: the present one, and the earlier ones that the settings name."""
    present = public_key()
    return frozenset([*settings.SEAL_PUBLIC_KEYS, *([present] if present else [])])


@lru_cache(maxsize=4)
def _private(secret: str) -> Ed25519PrivateKey:
    seed = HKDF(SHA256(), length=32, salt=None, info=b"novawf seals").derive(secret.encode())
    return Ed25519PrivateKey.from_private_bytes(seed)
