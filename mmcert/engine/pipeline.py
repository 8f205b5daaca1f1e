"""Looks at a test pipeline: does the model get the image as it is on disk?"""

from typing import Any

UNALTERING = ('Load', 'Pack', 'Resize')
"""Transforms that leave the image alone, by the beginning of their names. A ``Resize`` is one as
long as the image keeps its size, which is checked for each image."""


def require_unaltered_images(dataset: Any) -> None:
    """Refuses a test pipeline that may alter the image when the original one is to be certified.

    Wrapped data sets are looked into; a pipeline that cannot be seen is refused as well.
    """
    remedy = (
        "set `smoothing.space='model'` to certify the image as the pipeline delivers it, which the "
        'result then says'
    )
    for chain in _transforms(dataset):
        if not chain:
            raise ValueError(
                f'the test pipeline of {type(dataset).__name__} cannot be seen, so it may alter '
                f'the image before the noise is added: {remedy}'
            )
        # Two resizes may lead to another size and back, which the size alone does not show.
        resizes = sum(name.startswith('Resize') for name in chain)
        for name in chain:
            if not name.startswith(UNALTERING) or resizes > 1:
                raise ValueError(
                    f'the test pipeline has {name}, which may alter the image before the noise is '
                    f'added, so a radius would not hold for the original image. Remove it, or '
                    f'{remedy}'
                )


def _transforms(dataset: Any) -> list[list[str]]:
    """Names of the transforms that images go through, a list for each source of images."""
    if hasattr(dataset, 'dataset'):
        chains = _transforms(dataset.dataset)
    elif hasattr(dataset, 'datasets'):
        chains = [chain for item in dataset.datasets for chain in _transforms(item)]
    else:
        chains = [[]]
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    return [chain + [type(step).__name__ for step in steps] for chain in chains]
