"""Images: their unit, and what results say of their components and of the certified space."""

import torch

PIXEL_RANGE = 255.0
"""The pipelines' pixel range: the one place where [0, 1] image units meet it."""

NORMALISED = 16.0
"""An image with negative values and none above this is taken for one that was normalised."""

SPACES = {
    'original': 'the original image',
    'model': (
        'the image as the test pipeline delivers it to the model, after its resizing: the radius '
        'does not transfer to the original image'
    ),
}
"""Where the certified perturbations live, as every result says it."""

RESOLUTIONS = {
    'image': 'the pixels of the image',
    'logits': (
        "the points of the head's grid; every pixel gets the label of its nearest grid point: "
        'another model than the one that labels pixels'
    ),
}
"""What the smoothed function labels, as every result says it."""


def to_unit_range(image: torch.Tensor) -> torch.Tensor:
    """Brings an image (C, H, W) from the pipeline into [0, 1] image units, float32.

    Raises:
        ValueError: If values lie far outside 0-255, or are those of a normalised image. Those of an
            attacked image may lie somewhat outside.
    """
    raw = image.float()
    low, high = (float(value) for value in raw.aminmax())
    # An attack may take values a little farther; an image that was normalised has negative ones,
    # and none far from 0, or many as far below 0 as above.
    attacked = low >= -PIXEL_RANGE / 4 and high <= 2 * PIXEL_RANGE
    attacked = attacked and (low >= 0 or high > NORMALISED)
    if not attacked:
        raise ValueError(
            f'the test pipeline delivers an image with values in [{low:.4g}, {high:.4g}], but '
            "smoothing needs the raw image in 0-255: leave normalisation to the model's data "
            'preprocessor'
        )
    return raw / PIXEL_RANGE
