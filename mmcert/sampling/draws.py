"""Addressable draws: draw j of an input under a seed is one tensor, however it is batched."""

import hashlib

import torch

SELECTION, ESTIMATION = 0, 1
"""The two sets of draws, which share no seed."""

DRAW_SCHEME = 2
"""Version of how draws follow from seed and input: votes of different versions do not mix. Draws of
version 1 were not rounded to a grid."""

DRAWS_PER_STAGE = 2**31
"""How many draws of one stage have distinct seeds."""


def require_current_scheme(scheme: int | None) -> None:
    """Raises ``ValueError`` for votes whose draws followed another scheme."""
    if scheme != DRAW_SCHEME:
        raise ValueError(
            f'these votes are of draw scheme {scheme}, this version makes draws by scheme '
            f'{DRAW_SCHEME}: their certificates may be wrong where a model reads the last bits of '
            'its input. Sample them again'
        )


def input_digest(inputs: torch.Tensor) -> bytes:
    """Digest of an input's content, 16 bytes: its address among all inputs.

    The same image gives the same draws wherever its file lies, and different images give different
    ones (on the CPU, as far as the 2^32 streams of torch's generator reach).
    """
    array = inputs.detach().contiguous().cpu().numpy()
    digest = hashlib.blake2b(f'{array.dtype}{array.shape}'.encode(), digest_size=16)
    digest.update(array.tobytes())
    return digest.digest()


def draw_seed(seed: int, digest: bytes, stage: int, index: int) -> int:
    """Seed of one draw in [0, 2^64), distinct from that of every other draw of the same input.

    The draw is number ``index`` of its ``stage``, of the input of a digest, in a run with ``seed``,
    any integer. torch's CPU generator keeps the low 32 bits of its seed only, so seeds made by
    hashing would collide after some ten thousand draws, and a repeated draw breaks the binomial
    test. Here the low 32 bits run through a permutation of a counter: no two of the 2^32 draws of
    one input share them.

    Raises:
        ValueError: If the index is not in [0, 2^31).
    """
    if not 0 <= index < DRAWS_PER_STAGE:
        raise ValueError(f'a draw index must lie in [0, {DRAWS_PER_STAGE}), got {index}')
    key = hashlib.blake2b(digest + repr(int(seed)).encode(), digest_size=8).digest()
    start = int.from_bytes(key, 'little')
    counter = (start + stage * DRAWS_PER_STAGE + index) % 2**32
    return (start >> 32) << 32 | _permute32(counter)


def _permute32(value: int) -> int:
    """A permutation of the 32-bit integers that scatters neighbours (MurmurHash3's finaliser)."""
    value ^= value >> 16
    value = value * 0x85EBCA6B % 2**32
    value ^= value >> 13
    value = value * 0xC2B2AE35 % 2**32
    return value ^ value >> 16
