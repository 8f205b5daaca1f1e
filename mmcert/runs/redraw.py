"""Takes draws of the inputs of a run again, beside its stored votes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmcert.certifier.redraw import Redrawn, redraw
from mmcert.runs.source import Source
from mmcert.sampling import input_digest
from mmcert.votes import load_votes
from mmcert.votes.store import differences


def redraw_run(
    source: Source[Any], votes: Path, draws: int, limit: int | None = None, seed: int = 0
) -> Iterator[tuple[str, Redrawn | str]]:
    """Takes draws again for each input that has votes.

    Args:
        source (Source): The model and the inputs that the votes should be of.
        votes (Path): The folder of votes.
        draws (int): See ``mmcert.certifier.redraw.redraw``.
        limit (int | None): How many inputs, chosen by the seed; None for all.
        seed (int): See ``redraw``.

    Yields:
        tuple[str, Redrawn | str]: The name of each input, and what was found; text where the votes
        are not of this model, sampling or device, so that nothing was drawn.
    """
    sampling = json.loads(json.dumps(source.sampling))
    found, order = 0, range(len(source))
    if limit is not None:
        # Nobody must know beforehand which inputs are looked at.
        order = np.random.default_rng(seed).permutation(len(source)).tolist()
    with source.computing():
        for index in order:
            raw, sample = source.read(index)
            digest = input_digest(raw)
            path = votes / f'{source.name(sample, digest)}.npz'
            if not path.exists():
                continue
            record = load_votes(path)
            others = differences(record.meta.get('sampling', {}), sampling)
            if not others and record.meta.get('digest') != digest.hex():
                others = 'another input'
            if not others and record.meta.get('precision', {}).get('device') != source.device.type:
                others = f'sampled on another device, this is {source.device.type}'
            if others:
                yield path.stem, others
            else:
                yield (
                    path.stem,
                    redraw(
                        source.sampled_segmentor(raw, sample),
                        source.clean_input(raw),
                        record,
                        source.plan,
                        draws=draws,
                        seed=seed + index,
                    ),
                )
            found += 1
            if found == limit:
                return
