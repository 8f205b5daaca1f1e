"""Takes draws of the inputs of a run again, beside its stored votes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner, autocast

from mmcert.certifier.redraw import Redrawn, redraw
from mmcert.engine.base_model import inner
from mmcert.engine.provenance import RunInfo
from mmcert.engine.smoothing_config import smoothing_of
from mmcert.engine.weights import mismatches, require_loaded
from mmcert.sampling import input_digest
from mmcert.votes import load_votes
from mmcert.votes.store import differences


def redraw_run(
    runner: Runner, votes: Path, draws: int, images: int | None = None, seed: int = 0
) -> Iterator[tuple[str, Redrawn | str]]:
    """Takes draws again for each input of the test data that has votes.

    Args:
        runner (Runner): Of the config and the checkpoint that the votes should be of.
        votes (Path): The folder of votes.
        draws (int): See ``mmcert.certifier.redraw.redraw``.
        images (int | None): How many inputs, chosen by the seed; None for all.
        seed (int): See ``redraw``.

    Yields:
        tuple[str, Redrawn | str]: The name of each input, and what was found; text where the votes
        are not of this model, config or device, so that nothing was drawn.
    """
    config = smoothing_of(runner)
    checkpoint = runner.load_checkpoint(runner.cfg.load_from)
    if config.strict_weights:
        require_loaded(mismatches(inner(runner.model), checkpoint))
    run = RunInfo(runner)
    plan, base = config.plan(run.classes), run.base.eval().requires_grad_(False)
    sampling = json.loads(json.dumps(run.sampling(plan)))
    adapter, found, order = plan.adapter, 0, range(len(run.dataset))
    if images is not None:
        # Nobody must know beforehand which inputs are looked at.
        order = np.random.default_rng(seed).permutation(len(run.dataset)).tolist()
    with plan.precision.applied_to(base), autocast(enabled=run.fp16):
        for index in order:
            ((raw, sample),) = adapter.inputs(pseudo_collate([run.dataset[index]]))
            raw = raw.to(run.device)
            digest = input_digest(raw)
            path = votes / f'{adapter.name(sample, digest)}.npz'
            if not path.exists():
                continue
            record = load_votes(path)
            others = differences(record.meta.get('sampling', {}), sampling)
            if not others and record.meta.get('digest') != digest.hex():
                others = 'another input'
            if not others and record.meta.get('precision', {}).get('device') != run.device.type:
                others = f'sampled on another device, this is {run.device.type}'
            if others:
                yield path.stem, others
            else:
                adapter.check(raw, sample)
                segment, clean = plan.segmentor(base, raw, sample), adapter.clean_input(raw)
                yield (
                    path.stem,
                    redraw(segment, clean, record, plan, draws=draws, seed=seed + index),
                )
            found += 1
            if found == images:
                return
