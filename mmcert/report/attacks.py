"""Tables and pictures of attacks beside certificates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certify import ABSTAIN_LABEL
from mmcert.metrics.counts import intersection_and_union, iou, mean_of_present, ratio
from mmcert.report.pictures import (
    ABSTAIN_COLOR,
    UNLABELLED_COLOR,
    Color,
    arranged,
    draw_cloud,
    heat_map,
    paint,
    titled,
    with_legend,
)
from mmcert.report.tables import UNLABELLED, text_table

MODELS = {
    'base_clean': 'base, clean',
    'base_attacked': 'base, attacked',
    'smoothed_clean': 'smoothed, clean',
    'smoothed_attacked': 'smoothed, attacked',
    'certified': 'certified',
}
"""What is compared, in the order of the tables, and their headings."""

KEPT = (
    '"kept" is the share of the components that have, under attack, the class that the smoothed '
    'model gives them without'
)
"""What attacks are judged by without labels."""

Confusions = Mapping[str, NDArray[np.int64]]
"""Ground truth by prediction, (C, C + 1), the last column for abstentions, for each of ``MODELS``.
"""


def attack_rates(confusions: Confusions) -> dict[str, dict[str, float]]:
    """Accuracy, mIoU and the share of abstentions among labelled components, for each model."""
    return {
        name: {
            'accuracy': ratio(np.trace(found), found.sum()),
            'mIoU': mean_of_present(iou(*intersection_and_union(found))),
            'abstain': ratio(found[:, -1].sum(), found.sum()),
        }
        for name, found in confusions.items()
    }


def is_labelled(confusions: Confusions) -> bool:
    """Whether any component has ground truth."""
    return any(bool(found.any()) for found in confusions.values())


def attack_table(by_set: Mapping[str, Confusions]) -> str:
    """Clean, attacked and certified rates side by side, two rows for each set of attacks.

    Without labels, a sentence that says what attacks are judged by then.

    >>> found = {name: np.array([[3, 1, 0], [0, 3, 1]]) for name in MODELS}
    >>> [word for word in attack_table({'l2': found}).splitlines()[3].split() if word != '|']
    ['l2', 'accuracy', '0.75', '0.75', '0.75', '0.75', '0.75', '0.125']
    """
    if not any(map(is_labelled, by_set.values())):
        return f'{UNLABELLED}; {KEPT}'
    rows = []
    for name, confusions in by_set.items():
        rates = attack_rates(confusions)
        for rate in ('accuracy', 'mIoU'):
            abstain = rates['certified']['abstain'] if rate == 'accuracy' else ''
            rows.append([name, rate, *(rates[model][rate] for model in MODELS), abstain])
    return text_table(['attacks', '', *MODELS.values(), 'abstain'], rows)


def attacked_class_table(confusions: Confusions, classes: Sequence[str]) -> str:
    """The IoU of each class that occurs, and how much of it is abstained from.

    Empty without labels.
    """
    if not is_labelled(confusions):
        return ''
    by_model = {name: iou(*intersection_and_union(confusions[name])) for name in MODELS}
    certified = confusions['certified']
    rows = [
        [
            name,
            *(float(values[index]) for values in by_model.values()),
            ratio(certified[index, -1], certified[index].sum()),
        ]
        for index, name in enumerate(classes)
        if any(found[index].any() or found[:, index].any() for found in confusions.values())
    ]
    return text_table(['IoU of', *MODELS.values(), 'abstain'], rows)


def single_attack_table(rows: Sequence[Mapping[str, Any]], labelled: bool = True) -> str:
    """What each attack did by itself, over all inputs: accuracy, and certified components."""
    columns = {
        key: key for key in ('model', 'attack', 'accuracy', 'certified', 'doubtful', 'broken')
    }
    if not labelled:
        columns['accuracy'] = 'kept'
    totals = attack_totals(rows)
    return text_table(columns.values(), ([row[key] for key in columns] for row in totals))


def attack_totals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each attack over all inputs: its accuracy, and what it did to certified components.

    Those are the numbers that it faced, brought in doubt, and broke; None for attacks on the base
    model. Without labels the class of the smoothed model on the clean input stands for the label.
    """
    totals = []
    for model, attack in dict.fromkeys((row['model'], row['attack']) for row in rows):
        mine = [row for row in rows if (row['model'], row['attack']) == (model, attack)]
        sums = {
            key: sum(row.get(key, 0) for row in mine)
            for key in ('right', 'labelled', 'certified', 'doubtful', 'broken')
        }
        tested = {key: sums[key] if model == 'smoothed' else None for key in list(sums)[2:]}
        accuracy = ratio(sums['right'], sums['labelled'])
        totals.append({'model': model, 'attack': attack, 'accuracy': accuracy, **tested})
    return totals


def attack_picture(
    clean: NDArray[np.floating],
    attacked: NDArray[np.floating],
    maps: Mapping[str, NDArray[np.integer]],
    palette: Sequence[Color],
    classes: Sequence[str],
    *,
    label: NDArray[np.integer] | None = None,
    title: str = '',
    up: int = 2,
) -> NDArray[np.uint8]:
    """Image, perturbation and attacked image, above predictions and the certified map.

    Args:
        clean (np.ndarray): RGB image in [0, 1] units, shape (H, W, 3), or a cloud, shape (N, D),
            coordinates first.
        attacked (np.ndarray): The same under attack.
        maps (Mapping): Labels by the names of ``MODELS``; abstentions are ``ABSTAIN_LABEL``.
        palette (Sequence): Colour of each class.
        classes (Sequence[str]): Their names, for the legend.
        label (np.ndarray | None): The ground truth.
        title (str): What the attack is within.
        up (int): Axis of a cloud that points up.

    Returns:
        np.ndarray: RGB picture, uint8. The perturbation is scaled so that its largest value is
        seen: grey is none. Of a cloud it is how far each point was moved.
    """
    delta, is_cloud = attacked - clean, clean.ndim == 2
    largest = float(np.abs(delta).max(initial=0.0))
    panels: dict[str, NDArray[np.uint8]] = {}
    if is_cloud:
        moved = np.linalg.norm(delta[:, :3], axis=1)
        shades = heat_map(moved)
        panels[f'moved by up to {moved.max(initial=0.0):.3g}'] = draw_cloud(
            clean[:, :3], shades, up, ABSTAIN_COLOR
        )
    else:
        panels['image'] = _bytes(clean)
        scale = 0.5 / max(largest, 1e-12)
        panels[f'attack, {title}, x {scale:.3g}'] = _bytes(0.5 + delta * scale)
        panels['attacked'] = _bytes(attacked)

    def panel(labels: NDArray[np.integer], where: NDArray[np.floating]) -> NDArray[np.uint8]:
        colours = paint(labels, palette, ABSTAIN_COLOR)
        return draw_cloud(where[:, :3], colours, up, ABSTAIN_COLOR) if is_cloud else colours

    if label is not None:
        truth = paint(label, palette, UNLABELLED_COLOR)
        panels['label'] = draw_cloud(clean[:, :3], truth, up, ABSTAIN_COLOR) if is_cloud else truth
    panels['base'] = panel(maps['base_clean'], clean)
    panels['smoothed'] = panel(maps['smoothed_clean'], clean)
    panels['smoothed, attacked'] = panel(maps['smoothed_attacked'], attacked)
    panels[f'certified, {title}'] = panel(maps['certified'], clean)
    shown = [*maps.values(), *(() if label is None else (label,))]
    entries = {
        name: palette[index]
        for index, name in enumerate(classes)
        if any((found == index).any() for found in shown)
    }
    if (maps['certified'] == ABSTAIN_LABEL).any():
        entries['abstained'] = ABSTAIN_COLOR
    if label is not None and (label >= len(palette)).any():
        entries['no ground truth'] = UNLABELLED_COLOR
    return with_legend(arranged([titled(*item) for item in panels.items()]), entries)


def _bytes(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.clip(np.round(image * 255), 0, 255).astype(np.uint8)
