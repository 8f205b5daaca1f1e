"""Holds mmcert's labels against the model's own, for one config of each family of mmsegmentation.

Random weights, one noisy image, nothing is downloaded. What is asked of each model: do labels that
are read from its logits equal those of its own `predict`, pixel by pixel; does it draw random
numbers in testing; and can it be sampled. Families whose packages are not installed are named with
what is missing, so the table says most with full mmcv (`make venv-full`), mmdet and mmpretrain.

Each model has a process of its own. Results lie in work_dirs/model_zoo, a file for each family: the
sweep continues where it stopped, and --again starts anew. The table is written once all are there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study import ROOT, WORK_DIRS, Results, machine, on_machine, table, write_results

if TYPE_CHECKING:
    import torch

WORK = WORK_DIRS / 'model_zoo'
SIZE = (96, 160)
SIGMA = 0.25
N0, N = 2, 6
BATCHES = (1, 3)
PACKAGES = ('mmsegmentation', 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmpretrain', 'torch')
LETTERS = {
    'slim': 0, 'tiny': 0, 't': 0, 'small': 1, 's': 1, 'base': 2, 'b': 2, 'm': 2, 'large': 3, 'l': 3,
}  # fmt: skip
"""Sizes of backbones that are called by a letter or a word."""

UNUSUAL = ('769x769', 'levir', 'drive', 'stare', 'chase', 'hrf', 'amp')
"""Of several configs, those with slide inference, pairs of images or autocast come last."""


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--families', nargs='+', help='only these; by default all')
    parser.add_argument('--again', action='store_true', help='measure what was measured before')
    parser.add_argument('--seconds', type=float, default=900, help='most that a model may take')
    parser.add_argument('--one', metavar='CONFIG', help='measure one config here, print JSON')
    return parser.parse_args()


def main() -> int:
    """Sweeps, and writes the table once every family has a result."""
    args = parse_args()
    if args.one:
        print('\n' + json.dumps(measure(args.one)))
        return 0
    configs = representatives()
    unknown = sorted(set(args.families or ()) - set(configs))
    if unknown:
        print(f'no such family: {", ".join(unknown)}; there are {", ".join(configs)}')
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    chosen = args.families or list(configs)
    for number, family in enumerate(chosen, 1):
        file = WORK / f'{family}.json'
        if args.again or not file.exists():
            started = time.monotonic()
            row = {'family': family, **in_a_process(configs[family], args.seconds)}
            row['seconds'] = round(time.monotonic() - started, 1)
            part = file.with_suffix('.part')
            part.write_text(json.dumps(row, indent=1) + '\n')
            part.replace(file)
        row = json.loads(file.read_text())
        print(f'{number}/{len(chosen)} {family}: {in_words(row)}', flush=True)
    files = [WORK / f'{family}.json' for family in configs]
    left = sum(not file.exists() for file in files)
    if left:
        print(f'{left} of {len(configs)} families are not done yet: no table')
        return 0
    from mmcert.version import versions

    content = {
        'size': SIZE,
        'sigma': SIGMA,
        'n0': N0,
        'n': N,
        'batches': BATCHES,
        'versions': versions(PACKAGES),
        'machine': machine(),
        'rows': [json.loads(file.read_text()) for file in files],
    }
    write_results('model_zoo', content)
    return 0


def stock_configs() -> Path:
    """Where mmsegmentation keeps its configs."""
    spec = importlib.util.find_spec('mmseg')
    assert spec is not None and spec.submodule_search_locations, 'mmsegmentation is not installed'
    return Path(spec.submodule_search_locations[0]) / '.mim' / 'configs'


def representatives() -> dict[str, str]:
    """For each family the config with the smallest backbone, by its name."""
    found = {}
    for folder in sorted(stock_configs().iterdir()):
        names = [file.name for file in folder.glob('*.py')]
        if names and not folder.name.startswith('_'):
            found[folder.name] = f'{folder.name}/{min(names, key=size_by_name)}'
    return found


def size_by_name(name: str) -> tuple[float, int, int, str]:
    """How large the backbone of a config is: comparable with others of its family."""
    size = math.inf
    for token in re.split('[-_]', name.removesuffix('.py')):
        letter = re.fullmatch('([stbml])(?:14|16)', token)
        number = re.fullmatch(r'(?:r|s|m|b|stdc|hr|in)(\d+)([a-z]?)', token)
        if token in LETTERS or letter:
            size = min(size, LETTERS[letter[1] if letter else token])
        elif number and not token.startswith('in'):
            # hr18s is smaller than hr18, and r18b as large as r18.
            size = min(size, float(number[1]) - 0.5 * token.startswith('hr') * (number[2] == 's'))
    return size, sum(word in name for word in UNUSUAL), len(name), name


def in_a_process(config: str, seconds: float) -> dict[str, Any]:
    """Measures a config in a process of its own, which may fail."""
    command = [sys.executable, '-W', 'ignore', __file__, '--one', config]
    base = {'config': config, 'kind': 'segmentor'}
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {**base, 'missing': f'not done within {seconds:g} s'}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ['']
        return {**base, 'missing': f'the process ended with {done.returncode}: {lines[-1][:200]}'}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(config: str) -> dict[str, Any]:
    """Compares and samples one config.

    Args:
        config (str): Family and file name.

    Returns:
        dict: ``kind`` ('segmentor' or what else it is), and ``missing``, the reason why it does not
        run, or ``mode`` (of inference), ``size``, ``labels`` (pixels), ``classes`` (in the label
        map), ``unequal`` (labels that are not those of ``predict``), ``fast`` (labels read from
        logits), ``random`` (draws random numbers), ``passes_differ`` (labels at which two passes of
        the model as it is differ), ``hits_differ`` (pixels whose hits differ between batches of
        other sizes) and ``certificate`` (kind of statement made of its votes).
    """
    import torch

    from mmcert.compat import enable_mmcv_lite, reuse_freed_memory

    torch.set_grad_enabled(False)
    reuse_freed_memory()
    enable_mmcv_lite()
    row: dict[str, Any] = {'config': config, 'kind': 'segmentor'}
    try:
        base, kind = build(config)
    except Exception as error:
        return {**row, 'missing': reason(error)}
    if base is None:
        return {**row, 'kind': kind}
    row['mode'] = base.test_cfg.get('mode', 'whole')
    problem = ''
    for size in sizes(base):
        try:
            return {**row, 'size': size, **compare(base, size)}
        except Exception as error:
            # The first size is that of the others; where it is too small for a model, its own.
            problem = problem or reason(error)
            problem = f'{problem} ({size[0]} x {size[1]})' if '(' not in problem else problem
    return {**row, 'missing': problem}


def build(config: str) -> tuple[Any, str]:
    """A model with random weights; None for what does not segment, with what it does."""
    import torch
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    cfg = Config.fromfile(stock_configs() / config).model
    if cfg.type == 'DepthEstimator':
        return None, 'depth estimation'
    without_downloads(cfg)
    torch.manual_seed(0)
    # On a CPU the stock tools do so as well.
    model = revert_sync_batchnorm(MODELS.build(cfg)).eval()
    for weight in model.parameters():
        # Some are left to the checkpoint: whatever lay in memory, or zeros that end in 0 / 0.
        if weight.dim() > 1 and not 1e-6 < float(weight.detach().abs().max()) < 1e3:
            torch.nn.init.normal_(weight, std=0.02)
    return model, 'segmentor'


def without_downloads(cfg: Any) -> None:
    """Takes pretrained weights out of a config."""
    if isinstance(cfg, list):
        for item in cfg:
            without_downloads(item)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key == 'pretrained' or (key == 'init_cfg' and 'checkpoint' in str(value)):
                cfg[key] = None
            else:
                without_downloads(value)


def sizes(base: Any) -> list[tuple[int, int]]:
    """Sizes of images to try: that of all models, then the one that this model is made for."""
    preprocessor = base.data_preprocessor
    for own in (
        base.test_cfg.get('crop_size'),
        getattr(preprocessor, 'size', None),
        getattr(preprocessor, 'size_divisor', None),
    ):
        if own:
            return [SIZE, (own, own) if isinstance(own, int) else tuple(own)]
    return [SIZE]


def compare(base: Any, size: tuple[int, int]) -> dict[str, Any]:
    """What is asked of a model at a size; see ``measure``."""
    import numpy as np
    import torch
    from mmseg.structures import SegDataSample

    from mmcert.certify import certify
    from mmcert.models import ImageSegmentor
    from mmcert.models.randomness import content_number, seeded
    from mmcert.perturbations import GaussianNoise
    from mmcert.sampling import LogitMaps, SamplingSettings, collect_votes

    meta = dict(ori_shape=size, img_shape=size, img_path='image.png')
    noise = GaussianNoise(SIGMA)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 8, 16, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size, mode='bilinear')[0].contiguous()
    noisy = image + SIGMA * torch.randn(image.shape, generator=generator)

    def predicted() -> torch.Tensor:
        data = {'inputs': [noisy * 255], 'data_samples': [SegDataSample(metainfo=dict(meta))]}
        data = base.data_preprocessor(data, False)
        (output,) = base(data['inputs'], data['data_samples'], mode='predict')
        return output.pred_sem_seg.data[0]

    # Pooled features of similar images would have hardly any variance.
    others = torch.rand(4, 3, 1, 1, generator=generator) * torch.randn(
        4, *image.shape, generator=generator
    )
    spread_labels(base, image.roll(1, dims=0) + others, meta)
    passes = [predicted() for _ in range(2)]
    with seeded(content_number(noisy), noisy.device):
        expected = predicted()
    segment = ImageSegmentor(base, SegDataSample(metainfo=meta))
    fast = isinstance(segment([noisy]), LogitMaps)
    labels = segment.labels([noisy])[0]
    classes = base.num_classes
    segment.require_repeatable(noisy, batch=2)
    votes = [
        collect_votes(
            segment,
            image,
            noise,
            SamplingSettings(n0=N0, n=N, num_classes=classes, batch_size=batch),
        )
        for batch in BATCHES
    ]
    certificate = certify(votes[0], tau=0.5, alpha=0.05)
    differ = (votes[0].guess != votes[1].guess) | (votes[0].hits != votes[1].hits)
    return {
        'labels': labels.numel(),
        'classes': len(expected.unique()),
        'unequal': int((labels != expected).sum()),
        'fast': fast,
        'random': 'random_numbers' in segment.to_dict(),
        'passes_differ': int((passes[0] != passes[1]).sum()),
        'hits_differ': int(np.count_nonzero(differ)),
        'certificate': certificate.to_dict()['kind'],
    }


def spread_labels(base: Any, images: torch.Tensor, meta: dict[str, Any]) -> None:
    """Takes the statistics of batch normalisation from some images.

    Otherwise activations of random weights fade from layer to layer, one class wins everywhere, and
    equal labels would say little.

    Args:
        base (BaseModel): The model; changed.
        images (torch.Tensor): Shape (B, 3, H, W), in [0, 1].
        meta (dict): Meta information of each.
    """
    import torch
    from mmseg.structures import SegDataSample

    norms = [m for m in base.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    samples = [SegDataSample(metainfo=dict(meta)) for _ in images]
    try:
        data = base.data_preprocessor({'inputs': list(images * 255), 'data_samples': samples})
        base(data['inputs'], data['data_samples'], mode='predict')
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum


def reason(error: BaseException) -> str:
    """Why a model does not run, in a line."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            return f'needs {cause.name.partition(".")[0]}'
    for cause in causes:
        if found := re.search(r'(?:install|import) (mm\w+)', str(cause)):
            return f'needs {found[1]}'
    first = (str(causes[0]).strip().splitlines() or [''])[0]
    return f'{type(causes[0]).__name__}: {first}'[:200]


def in_words(row: dict[str, Any]) -> str:
    """A row for the console."""
    if row['kind'] != 'segmentor':
        return row['kind']
    if 'missing' in row:
        return f'{row["config"]}: {row["missing"]}'
    return (
        f'{row["config"]}: {row["labels"] - row["unequal"]} of {row["labels"]} labels equal, '
        f'{"logits" if row["fast"] else "predict"}'
        + ', draws random numbers' * row['random']
        + f' ({row.get("seconds", 0):.0f} s)'
    )


def render(results: Results) -> list[str]:
    """One config of each family of mmsegmentation: labels against the model's own, and sampling."""
    rows = [
        (
            'family',
            'config',
            'labels from',
            "equal to the model's own",
            'random numbers',
            'certified',
        )
    ]
    ran = [row for row in results['rows'] if 'labels' in row]
    for row in results['rows']:
        name = Path(row['config']).stem
        if row not in ran:
            why = row['kind'] if row['kind'] != 'segmentor' else row['missing'].replace('|', ' ')
            rows.append((row['family'], name, '-', '-', '-', f'no: {why}'))
            continue
        size = '' if row['size'] == results['size'] else ' ({} x {})'.format(*row['size'])
        drawn = 'yes' if row['random'] else '-'
        if row['passes_differ']:
            drawn += f'; two passes of the stock model differ at {row["passes_differ"]:,}'
        slides = ' (slide inference)' if row['mode'] == 'slide' else ''
        rows.append(
            (
                row['family'],
                name,
                'logits' if row['fast'] else f'`predict`{slides}',
                f'{row["labels"] - row["unequal"]:,} of {row["labels"]:,}{size}',
                drawn,
                'yes' if row['certificate'] == 'certificate' else row['certificate'],
            )
        )
    equal = sum(row['unequal'] == 0 for row in ran)
    odd = [f'{row["family"]}: {row["hits_differ"]:,}' for row in ran if row['hits_differ']]
    plain = [row['family'] for row in ran if row['classes'] == 1]
    small, large = results['batches']
    installed = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    height, width = results['size']
    return [
        *table(rows),
        '',
        f'{len(results["rows"])} families, of which {len(ran)} ran; in {equal} of these all labels '
        f"equal those of the model's own `predict`, {sum(row['fast'] for row in ran)} of them read "
        f'from logits. One image of {height} x {width} pixels (a larger one where the table says '
        f'so) with noise {results["sigma"]:g}, random weights; n0 = {results["n0"]}, n = '
        f'{results["n"]} draws in batches of {small} and of {large}. Pixels whose votes differ '
        f'between the two: {", ".join(odd) or "none"}. Label maps of a single class, which say '
        f'less: {", ".join(plain) or "none"}.',
        '',
        f'{installed}; {on_machine(results)}, beside other work: '
        f'{sum(row["seconds"] for row in results["rows"]) / 60:.0f} minutes.',
    ]


TABLES = {'model_zoo': render}

if __name__ == '__main__':
    sys.exit(main())
