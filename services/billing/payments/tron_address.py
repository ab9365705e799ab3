"""Tron's addresses: base58 with a checksum outside, twenty bytes behind the byte 0x41 inside."""

import hashlib

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PREFIX = 0x41
_LENGTH = 34


def account_of(address: str) -> bytes:
    """The twenty bytes that an address stands for. Raises ValueError unless it is one, checksum and all."""
    if len(address) != _LENGTH or any(letter not in _ALPHABET for letter in address):
        raise ValueError("is no Tron address")
    number = 0
    for letter in address:
        number = number * 58 + _ALPHABET.index(letter)
    if number >> 200:
        raise ValueError("is no Tron address")
    decoded = number.to_bytes(25, "big")
    payload, checksum = decoded[:21], decoded[21:]
    if payload[0] != _PREFIX or hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4] != checksum:
        raise ValueError("is no Tron address: its checksum is wrong")
    return payload[1:]


def address_of(account: bytes) -> str:
    """The address of twenty bytes."""
    payload = bytes([_PREFIX]) + account
    number = int.from_bytes(payload + hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4], "big")
    letters = ""
    while number:
        number, digit = divmod(number, 58)
        letters = _ALPHABET[digit] + letters
    return letters
