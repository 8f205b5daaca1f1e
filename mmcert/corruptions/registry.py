"""All corruptions by name, and groups of them."""

from collections.abc import Iterable, Sequence

from mmcert.corruptions.base import Corruption
from mmcert.corruptions.clouds import FUNCTIONS, CloudCorruption
from mmcert.corruptions.images import COMMON, EXTRA, ImageCorruption

CORRUPTIONS: dict[str, Corruption] = {
    **{name: ImageCorruption(name, category) for name, category in (COMMON | EXTRA).items()},
    **{name: CloudCorruption(name, category) for name, (category, _) in FUNCTIONS.items()},
}
"""All corruptions by name, those of images in the order of their paper."""

CITYSCAPES_C = (
    'motion_blur', 'defocus_blur', 'glass_blur', 'gaussian_blur', 'gaussian_noise', 'impulse_noise',
    'shot_noise', 'speckle_noise', 'brightness', 'contrast', 'saturate', 'jpeg_compression', 'snow',
    'spatter', 'fog', 'frost',
)  # fmt: skip
"""The 16 of Kamann and Rother (CVPR 2020) that the SegFormer paper reports."""

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    'image': {
        'common': tuple(COMMON),
        'extra': tuple(EXTRA),
        'all': tuple(COMMON | EXTRA),
        'cityscapes-c': CITYSCAPES_C,
    },
    'points': {'common': tuple(FUNCTIONS), 'all': tuple(FUNCTIONS)},
}
"""Names of groups, by domain; a category is a group as well."""


def chosen(names: Iterable[str], domain: str) -> list[Corruption]:
    """The corruptions of some names and groups, each once, in the order given.

    Args:
        names (Iterable[str]): Names of corruptions, of ``GROUPS``, or categories of the common
            ones.
        domain (str): 'image' or 'points'.

    Raises:
        ValueError: If a name is not known for this domain.

    Example:
        >>> [corruption.name for corruption in chosen(['blur', 'fog'], 'image')]
        ['defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur', 'fog']
    """
    groups = GROUPS[domain]
    found: dict[str, Corruption] = {}
    for name in names:
        members: Sequence[str] = groups.get(name) or [
            member for member in groups['common'] if CORRUPTIONS[member].category == name
        ]
        if not members and name in groups['all']:
            members = [name]
        if not members:
            categories = dict.fromkeys(CORRUPTIONS[member].category for member in groups['common'])
            raise ValueError(
                f'unknown corruption {name!r}; there are {", ".join(groups["all"])}, and the '
                f'groups {", ".join([*groups, *categories])}'
            )
        found |= {member: CORRUPTIONS[member] for member in members}
    return list(found.values())
