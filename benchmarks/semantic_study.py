"""The steps of ``semantic.py``: training, certificates, attacks and pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from mmcert.compat import enable_mmcv_lite, reuse_freed_memory

enable_mmcv_lite()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner import load_checkpoint  # noqa: E402
from mmseg.registry import DATASETS, MODELS  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402
from study import (  # noqa: E402
    IMAGES,
    ROOT,
    chosen_inputs,
    evenly_spaced,
    run_tool,
)

from mmcert.attacks import exhaustive  # noqa: E402
from mmcert.attacks.sets import parameter_set  # noqa: E402
from mmcert.certify.binomial import p_value_table  # noqa: E402
from mmcert.engine import SmoothingConfig  # noqa: E402
from mmcert.models.image_adapter import ImageAdapter  # noqa: E402
from mmcert.models.precision import PrecisionSettings  # noqa: E402
from mmcert.perturbations import (  # noqa: E402
    GaussianNoise,
    Perturbation,
    SurrogateTransform,
    build_distribution,
)
from mmcert.report.pictures import paint  # noqa: E402
from mmcert.sampling import input_digest  # noqa: E402
from mmcert.transformations import (  # noqa: E402
    IGNORE_INDEX,
    Geometric,
)
from mmcert.visualization.surrogates import panel  # noqa: E402
from mmcert.votes import VotesRecord, read_folder  # noqa: E402

CONFIGS = ROOT / 'configs' / 'semantic'
DATA = ROOT / 'data'
SIZE = (240, 180)
SURROGATES = (
    'defocus-blur', 'rotational-blur', 'zoom-blur', 'pixelate', 'motion-blur', 'jpeg',
    'gaussian-blur', 'brightness', 'contrast',
)  # fmt: skip
"""Transformations with a surrogate; the first is the one that the others start from."""
DIRECT = ('gaussian-blur', 'brightness-contrast', 'translation')
"""Those that are certified directly."""
CELLS = (
    'defocus-blur', 'rotational-blur', 'zoom-blur', 'gaussian-blur', 'motion-blur', 'pixelate',
    'jpeg', 'rotation', 'scaling',
)  # fmt: skip
"""Those that are certified by cells, all with one base model; see ``cells.py``."""
BESIDE_CELLS = ('brightness', 'contrast')
"""Those that cells cannot certify, certified directly with the model of brightness-contrast."""
CELLS_MODEL = 'noise-pooled8-s0.1'
CELLS_SPACES = {
    'pixels': 'noise-s0.5',
    'means of 4 x 4': 'noise-pooled4-s0.125',
    'means of 8 x 8': CELLS_MODEL,
    'latent of a surrogate': 'gsmooth-defocus-blur',
}
"""What the noise of cells may be on, and the config of a base model trained on it."""
CELLS_COMPARED = (('gaussian-blur', 500), ('gaussian-blur', 2150), ('rotation', 2150))
"""Attack sets and n for which these are compared."""
CELLS_DRAWS = (
    ('rotation', 6690), ('scaling', 6690), ('defocus-blur', 3290), ('gaussian-blur', 3290),
    ('motion-blur', 3290), ('zoom-blur', 3290), ('rotational-blur', 3290),
)  # fmt: skip
"""Attack sets that are certified with a larger n, too."""
CELLS_WIDENED = ('defocus-blur', 'pixelate', 'jpeg', 'rotation')
"""Attack sets that are certified with a further l2 perturbation, too."""
EXTRA_RADII = (0.0, 0.1)
CELLS_SIZES = ('defocus-blur', 'rotation')
"""Attack sets that are certified for images of the full size, too."""
DIRECTLY = ('gaussian-blur', 'directly', 500)
"""The first of them, certified directly."""
VANILLA = 'vanilla-1.2k'
LARGE = '-large'
"""Ends the names of configs for images of the full size."""
TEST_IMAGES = 233
ATTACK_DRAWS, SURE_DRAWS = 64, 1000
"""Draws of the smoothed model under attack, and of a second look at pixels that seem broken."""
CORRUPTION_DRAWS = 32
"""Draws of the smoothed model at each severity."""
RANGE_POINTS = 9
"""Parameters of an interval that an attack tries."""
BATCH = 16
SEED, SURE_SEED = 20260000, 20270000
"""Of the first draws under attack, and of those of a second look, which are new ones."""
BROKEN_LEVEL = 0.001
"""Of the binomial tests, all together."""
FEW_IMAGES = 10
"""Test images for corruptions, scales, distributions, and cells with a further radius."""
FEWEST_IMAGES = 6
"""Test images to compare what the noise of cells is on."""
LARGE_IMAGES = 3
"""Test images of the full size."""
IMAGE_NOISE = (0.25, 0.5)
SIGMA1, SIGMA2 = (0.1, 0.5), (0.5, 0.75, 1.0)
BLUR_RADIUS = 4.0
"""Variance in squared pixels that every distribution is scaled to certify."""


def settings() -> dict[str, dict[str, Any]]:
    """What the results were measured with."""
    return {
        'attack': {
            'draws': ATTACK_DRAWS,
            'sure_draws': SURE_DRAWS,
            'level': BROKEN_LEVEL,
            'range_points': RANGE_POINTS,
        },
        'corruptions': {'draws': CORRUPTION_DRAWS, 'images': FEW_IMAGES},
    }


class Study:
    """The steps of the study, in one work folder.

    Args:
        work_dirs (Path): Where models and results are.
        images (int): How many test images, evenly spaced, are certified and attacked.
    """

    def __init__(self, work_dirs: Path, images: int) -> None:
        reuse_freed_memory()
        register_all_modules()
        self.work_dirs = work_dirs
        self.indices = evenly_spaced(images, TEST_IMAGES)
        (work_dirs / 'semantic').mkdir(parents=True, exist_ok=True)

    def data(self) -> None:
        """CamVid at half its size."""
        source, target = DATA / 'camvid', DATA / 'camvid_180x240'
        for path in sorted(p for p in source.rglob('*.*') if p.is_file()):
            out = (target / path.relative_to(source)).with_suffix('.png')
            if out.exists():
                continue
            out.parent.mkdir(parents=True, exist_ok=True)
            labels = 'annotations' in path.parts
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED if labels else cv2.IMREAD_COLOR)
            how = cv2.INTER_NEAREST if labels else cv2.INTER_AREA
            cv2.imwrite(str(out), cv2.resize(image, SIZE, interpolation=how))

    def train(self, name: str) -> None:
        """The models that a config needs, and its own."""
        first, trained = f'gsmooth-{SURROGATES[0]}', trained_by(name)
        if trained != VANILLA:
            self.train(CELLS_MODEL if name.endswith(LARGE) else VANILLA)
        if name.startswith('gsmooth'):
            if name != first:
                self.train(first)
            folder = self.surrogate(name.partition('-')[2])
            if not (folder / 'surrogate.pth').exists():
                config = ROOT / 'configs' / 'surrogates' / f'{folder.name}.py'
                run_tool('train_surrogate', config, f'--work-dir={folder}', '--resume')
        if not self.checkpoint(name).exists():
            run_tool('train', config_file(trained), '--resume')

    def certify(self, name: str) -> None:
        """Votes, certificates and pictures of the test images."""
        if not certified_in(self.folder(name)):
            self.test(name, self.folder(name))

    def test(self, name: str, folder: Path, *options: str, config: Path | None = None) -> None:
        """Runs the test tool on the chosen images, with a config of its own or another one."""
        run_tool(
            'test', config or config_file(name), self.checkpoint(name), f'--work-dir={folder}',
            f'--show-dir={folder / "pictures"}', '--cfg-options', chosen_inputs(self.indices),
            'smoothing.batch_size=16', *options,
        )  # fmt: skip

    def attack(self, name: str) -> None:
        """The worst parameter for each image, and whether a certified pixel falls."""
        path = self.folder(name) / 'attack.json'
        if path.exists():
            return
        vanilla, model = Model(self, VANILLA), Model(self, name)
        values = model.attack_values
        records = {r.meta['digest']: r for r in read_folder(self.votes(name))}
        images = []
        for item in model.items():
            record = records[item.digest]
            guess = torch.from_numpy(record.votes.guess.astype(np.int64))
            smoothed = AttackedModel(model, item, guess)
            clean = {
                'vanilla': vanilla.labels(item, item.image),
                'base': model.labels(item, item.image),
                'smoothed': guess,
            }
            predictors = {
                'vanilla': partial(vanilla.labels, item),
                'base': partial(model.labels, item),
                'smoothed': smoothed,
            }
            found = {
                key: exhaustive(predict, item.image, model.transformation, values, item.label)
                for key, predict in predictors.items()
            }
            labelled = item.label != IGNORE_INDEX
            certified = torch.from_numpy(model.certified(item, record))
            right = labelled & (guess == item.label)
            images.append(
                {
                    'name': record.meta['name'],
                    'labelled': int(labelled.sum()),
                    'certified': int(certified.sum()),
                    'certified_right': int((certified & right).sum()),
                    'clean': {k: int((v == item.label)[labelled].sum()) for k, v in clean.items()},
                    # The attacker may also leave the image as it is.
                    'attacked': {
                        k: int((v.robust & (clean[k] == item.label)).sum())
                        for k, v in found.items()
                    },
                    'worst': {k: v.worst.tolist() for k, v in found.items()},
                    **smoothed.against(certified, len(values) * len(self.indices)),
                    'reach': {
                        words: int((right.numpy() & model.certified(item, record, part)).sum())
                        for words, part in model.smaller_sets.items()
                    },
                }
            )
            print(name, images[-1])
        path.write_text(json.dumps({'values': values.tolist(), 'images': images}, indent=1) + '\n')

    def corruptions(self, name: str) -> None:
        """Pixel accuracy at severities 0 (clean) to 5."""
        path = self.folder(name) / 'corruptions.json'
        if path.exists() or not name.startswith('gsmooth'):
            return
        few = Study(self.work_dirs, FEW_IMAGES)
        vanilla, model = Model(few, VANILLA), Model(few, name)
        transformation = model.transformation
        right = np.zeros((6, 3), dtype=int)
        labelled = 0
        for item in model.items():
            counted = item.label != IGNORE_INDEX
            labelled += int(counted.sum())
            for severity in range(6):
                image = item.image
                if severity:
                    parameters = transformation.severity(severity, SIZE[::-1])
                    image = transformation(image[None], parameters)[0]
                smoothed = AttackedModel(model, item, item.label, CORRUPTION_DRAWS)
                for column, labels in enumerate(
                    (vanilla.labels(item, image), model.labels(item, image), smoothed(image))
                ):
                    right[severity, column] += int((labels == item.label)[counted].sum())
        rows = [
            dict(zip(('vanilla', 'base', 'smoothed'), row, strict=True))
            for row in (right / labelled).tolist()
        ]
        path.write_text(json.dumps(rows, indent=1) + '\n')
        print(name, rows)

    def noise(self) -> None:
        """The scales of both noises, on the model of the first surrogate."""
        path = self.work_dirs / 'semantic' / 'noise.json'
        if path.exists():
            return
        name = f'gsmooth-{SURROGATES[0]}'
        few, rows = Study(self.work_dirs, FEW_IMAGES), []
        perturbation = Config.fromfile(config_file(name)).perturbation
        trained = {key: perturbation[key] for key in ('sigma1', 'sigma2')}
        for sigma1, sigma2 in product(SIGMA1, SIGMA2):
            folder = self.work_dirs / 'semantic' / f'{name}-s{sigma1}-{sigma2}'
            few.test(
                name, folder, f'smoothing.perturbation.sigma1={sigma1}',
                f'smoothing.perturbation.sigma2={sigma2}',
            )  # fmt: skip
            row = {'sigma1': sigma1, 'sigma2': sigma2, 'trained': trained, **summary(folder)}
            rows.append(row)
        path.write_text(json.dumps(rows, indent=1) + '\n')

    def laws(self) -> None:
        """Distributions of a blur's variance, scaled to one radius at the model's threshold."""
        path = self.work_dirs / 'semantic' / 'laws.json'
        if path.exists():
            return
        name, rows = 'direct-gaussian-blur', []
        few = Study(self.work_dirs, FEW_IMAGES)
        tau = Config.fromfile(config_file(name)).smoothing.tau
        unit: dict[str, dict[str, Any]] = {
            'Exponential': {'mean': 1.0},
            'Uniform': {'width': 1.0, 'one_sided': True},
            'FoldedNormal': {'sigma': 1.0},
        }
        for law, arguments in unit.items():
            (key, _), *_ = arguments.items()
            scale = BLUR_RADIUS / build_distribution({'type': law, **arguments}).radius(tau)
            folder = self.work_dirs / 'semantic' / f'{name}-{law}'
            options = {'type': law, **arguments, key: round(scale, 6)}
            few.test(
                name, folder,
                *(f'smoothing.perturbation.law.{k}={v}' for k, v in options.items()),
                'smoothing.perturbation.law._delete_=True',
            )  # fmt: skip
            rows.append({'law': options, **summary(folder)})
        path.write_text(json.dumps(rows, indent=1) + '\n')

    def compare(self) -> None:
        """Cells whose noise is on pixels, on means, and on a latent, for a few images."""
        few = Study(self.work_dirs, FEWEST_IMAGES)
        for transformation, n in CELLS_COMPARED:
            for space, trained in CELLS_SPACES.items():
                folder = self.compared(transformation, space, n)
                if certified_in(folder):
                    continue
                noise = dict(Config.fromfile(config_file(trained)).smoothing.perturbation)
                noise.pop('attack', None)
                folder.mkdir(parents=True, exist_ok=True)
                (config := folder / 'config.py').write_text(
                    f'_base_ = [{str(config_file(f"cells-{transformation}"))!r}]\n'
                    f'noise = dict(_delete_=True, **{noise!r})\n'
                    f'smoothing = dict(n={n}, perturbation=dict(noise=noise))\n'
                )
                few.test(trained, folder, config=config)
        folder = self.compared(*DIRECTLY)
        if not certified_in(folder):
            few.test('direct-gaussian-blur', folder)

    def comparison(self) -> dict[str, Any]:
        """What is known of it, and the pixels that each class has in those images."""
        rows = []
        for transformation, space, n in (
            *((name, space, n) for name, n in CELLS_COMPARED for space in CELLS_SPACES),
            DIRECTLY,
        ):
            folder = self.compared(transformation, space, n)
            if certified_in(folder):
                found = {'transformation': transformation, 'space': space, 'n': n}
                rows.append({**found, **summary(folder)})
        model = Model(Study(self.work_dirs, FEWEST_IMAGES), VANILLA)
        labels = torch.cat([item.label.ravel() for item in model.items()])
        counts = labels[labels != IGNORE_INDEX].bincount(minlength=model.classes).tolist()
        pixels = dict(zip(model.dataset.metainfo['classes'], counts, strict=True))
        return {'rows': rows, 'pixels': pixels}

    def enlarge(self) -> None:
        """Cells of images of the full size, for a few images."""
        few = Study(self.work_dirs, LARGE_IMAGES)
        for transformation in CELLS_SIZES:
            name = f'cells-{transformation}{LARGE}'
            self.train(name)
            few.certify(name)

    def widen(self) -> None:
        """The same with and without a further l2 perturbation, for a few images."""
        few = Study(self.work_dirs, FEW_IMAGES)
        for transformation, radius in product(CELLS_WIDENED, EXTRA_RADII):
            folder = self.widened(transformation, radius)
            if not certified_in(folder):
                option = f'smoothing.perturbation.extra_radius={radius}'
                few.test(f'cells-{transformation}', folder, option)

    def sample_more(self, chosen: Collection[str]) -> None:
        """The same images with more draws."""
        for transformation, n in CELLS_DRAWS:
            folder = self.with_draws(transformation, n)
            if transformation in chosen and not certified_in(folder):
                self.test(f'cells-{transformation}', folder, f'smoothing.n={n}')

    def with_draws(self, transformation: str, n: int) -> Path:
        """Where the results with more draws are."""
        return self.work_dirs / 'semantic' / 'draws' / f'{transformation}-{n}'

    def widened(self, transformation: str, radius: float) -> Path:
        """Where the results with a further perturbation are."""
        return self.work_dirs / 'semantic' / 'radius' / f'{transformation}-{radius:g}'

    def compared(self, transformation: str, space: str, n: int) -> Path:
        """Where the results of a comparison are."""
        name = f'{transformation}-{space.replace(" ", "-")}-{n}'
        return self.work_dirs / 'semantic' / 'spaces' / name

    def sheet(self, kind: str, transformations: Sequence[str]) -> None:
        """A picture of the docs: a row for each transformation that was certified and attacked."""
        names = [f'{kind}-{transformation}' for transformation in transformations]
        rows = [self.picture(n) for n in names if (self.folder(n) / 'attack.json').exists()]
        if rows:
            write_picture(f'semantic_{kind}.jpg', np.concatenate(rows))

    def pictures(self) -> None:
        """The pictures of the docs, of what was certified and attacked."""
        self.sheet('gsmooth', SURROGATES)
        self.sheet('direct', DIRECT)
        model = Model(self, f'gsmooth-{SURROGATES[0]}')
        image = next(model.items()).image
        panels = [panel(image, 'image')]
        for sigma in IMAGE_NOISE:
            noisy = GaussianNoise(sigma).sample(image, torch.Generator().manual_seed(0))
            panels.append(panel(noisy, f'image noise {sigma:g}'))
        surrogate, sigma1 = model.perturbation.surrogate, model.perturbation.sigma1
        for sigma2 in SIGMA2:
            draw = SurrogateTransform(surrogate, sigma1, sigma2)
            noisy = draw.sample(image, torch.Generator().manual_seed(0))
            panels.append(panel(noisy, f'latent noise {sigma2:g}'))
        write_picture('semantic_noise.jpg', np.concatenate(panels, axis=1))

    def picture(self, name: str) -> np.ndarray:
        """One test image: clean, under the attack that costs most pixels, label, certified."""
        one = Study(self.work_dirs, len(self.indices))
        one.indices = self.indices[len(self.indices) // 2 :][:1]
        model = Model(one, name)
        (item,) = model.items()
        stem = model.adapter.name(item.sample, bytes.fromhex(item.digest))
        images = json.loads((self.folder(name) / 'attack.json').read_text())['images']
        (worst,) = (image['worst']['smoothed'] for image in images if image['name'] == stem)
        attacked = model.transformation(item.image[None], worst)[0]
        (path,) = self.folder(name).glob(f'certified/certificates-*/{stem}.png')
        palette = [colour[::-1] for colour in model.dataset.metainfo['palette']]
        maps = (item.label.numpy(), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        label, certified = (
            torch.from_numpy(paint(values, palette, other)).permute(2, 0, 1) / 255
            for values, other in zip(maps, ((0, 0, 0), (255, 255, 255)), strict=True)
        )
        shown = ', '.join(f'{value:.3g}' for value in worst)
        return np.concatenate(
            [
                panel(item.image, 'image'),
                panel(attacked, f'{model.transformation.name} {shown}'),
                panel(label, 'label'),
                panel(certified, 'certified for the attack set'),
            ],
            axis=1,
        )

    def row(self, name: str) -> Iterator[dict[str, Any]]:
        """What is known of a transformation, if it was certified."""
        folder = self.folder(name)
        if not certified_in(folder):
            return
        row = {'name': name, **summary(folder)}
        path = folder / 'attack.json'
        row['attack'] = totals(json.loads(path.read_text())) if path.exists() else None
        path = folder / 'corruptions.json'
        row['corruptions'] = json.loads(path.read_text()) if path.exists() else None
        report = self.surrogate(name.partition('-')[2]) / 'surrogate.json'
        if name.startswith('gsmooth') and report.exists():
            row['surrogate'] = json.loads(report.read_text())['held_out']
        yield row

    def folder(self, name: str) -> Path:
        """Where the results of a transformation are."""
        return self.work_dirs / 'semantic' / name

    def votes(self, name: str) -> Path:
        """The votes of a transformation."""
        (folder,) = (self.folder(name) / 'certified').glob('votes-*')
        return folder

    def surrogate(self, transformation: str) -> Path:
        """Where a surrogate is."""
        return self.work_dirs / 'surrogates' / f'{transformation}_camvid-180x240'

    def checkpoint(self, name: str) -> Path:
        """Where the weights that a config needs are: training ends there."""
        config = config_file(trained_by(name))
        iterations = Config.fromfile(config).train_cfg.max_iters
        return self.work_dirs / config.stem / f'iter_{iterations}.pth'


@dataclass(frozen=True, eq=False)
class Item:
    """A test image: in [0, 1] units (3, H, W), with its label (H, W), sample and digest."""

    image: torch.Tensor
    label: torch.Tensor
    sample: Any
    digest: str


class Model:
    """A trained model of the study, what smooths it, and what attacks it.

    Args:
        study (Study): Where it is.
        config (str): Name of its config.
    """

    def __init__(self, study: Study, config: str) -> None:
        cfg = Config.fromfile(config_file(config))
        self.base = MODELS.build(cfg.model).eval()
        load_checkpoint(self.base, str(study.checkpoint(config)), map_location='cpu')
        cfg.test_dataloader.dataset.indices = study.indices
        self.dataset = DATASETS.build(cfg.test_dataloader.dataset)
        self.classes = len(self.dataset.metainfo['classes'])
        self.adapter = ImageAdapter()
        if cfg.get('smoothing'):
            self.plan = SmoothingConfig.from_cfg(dict(cfg.smoothing)).plan()
            self.perturbation = self.plan.perturbation
            # With cells, the smoothed model is the one under noise; they are the certificate's.
            found = parameter_set(self.perturbation, self.plan.settings.tau, RANGE_POINTS)
            self.transformation, self.attack_values = found.transformation, found.values
            self.smoothing = found.smoothing

    def items(self) -> Iterator[Item]:
        """The chosen test images."""
        for index in range(len(self.dataset)):
            data = self.dataset[index]
            raw, sample = data['inputs'], data['data_samples']
            yield Item(
                self.adapter.clean_input(raw),
                sample.gt_sem_seg.data[0].long(),
                sample,
                input_digest(raw).hex(),
            )

    def segmentor(self, item: Item) -> Any:
        """The base model as a function of images in [0, 1] units."""
        return self.adapter.segmentor(self.base, item.image, item.sample, PrecisionSettings())

    @torch.no_grad()
    def labels(self, item: Item, image: torch.Tensor) -> torch.Tensor:
        """What the base model itself predicts, shape (H, W)."""
        return self.segmentor(item).labels([image])[0].long()

    @property
    def smaller_sets(self) -> dict[str, SurrogateTransform]:
        """The finite attack set cut short after each of its values, by its words."""
        whole = self.perturbation
        if not isinstance(whole, SurrogateTransform) or whole.surrogate is None:
            return {}
        assert whole.attack is not None
        if whole.attack.mode != 'finite' or len(self.transformation.parameters) > 1:
            return {}
        found = {}
        for count in range(1, len(self.attack_values) + 1):
            attack = {'values': self.attack_values[:count].tolist()}
            smaller = SurrogateTransform(whole.surrogate, whole.sigma1, whole.sigma2, attack)
            assert smaller.attack is not None
            found[smaller.attack.describe(self.transformation)] = smaller
        return found

    def certified(
        self, item: Item, record: VotesRecord, perturbation: Perturbation | None = None
    ) -> np.ndarray:
        """The mask of certified pixels, under the model's perturbation or another one."""
        settings = self.plan.settings_for(
            (perturbation or self.perturbation).input_threshold(item.image)
        )
        return record.certify(settings).certified


class AttackedModel:
    """The smoothed model under attack: its majority label, and the votes for given classes.

    Args:
        model (Model): Base model and perturbation.
        item (Item): The clean image.
        guess (torch.Tensor): Classes whose votes are counted, shape (H, W).
        draws (int): At each attacked image.
    """

    def __init__(
        self, model: Model, item: Item, guess: torch.Tensor, draws: int = ATTACK_DRAWS
    ) -> None:
        self.model, self.item, self.guess, self.draws = model, item, guess, draws
        self.hits: list[np.ndarray] = []
        self.images: list[torch.Tensor] = []

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The majority label at an attacked image, shape (H, W), in its own frame."""
        counts, hits = self.sampled(image, len(self.images), self.draws, SEED)
        self.images.append(image)
        self.hits.append(hits)
        return counts.argmax(dim=0)

    @torch.no_grad()
    def sampled(
        self, image: torch.Tensor, number: int, draws: int, seed: int
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Counts of each class, and of the given ones where their content went.

        Args:
            image (torch.Tensor): The attacked image.
            number (int): Which of the attack set's parameters it has.
            draws (int): How many.
            seed (int): Of the first one.

        Returns:
            tuple[torch.Tensor, np.ndarray]: Shapes (C, H, W) and (H, W).
        """
        model, segment = self.model, self.model.segmentor(self.item)
        smoothing = model.smoothing
        counts = torch.zeros((model.classes, *self.guess.shape), dtype=torch.int64)
        hits = torch.zeros(self.guess.shape, dtype=torch.int64)
        for start in range(0, draws, BATCH):
            seeds = range(seed + start, seed + min(start + BATCH, draws))
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            parameters = smoothing.draw(image, generators)
            labels = segment.labels(list(smoothing.apply(image, parameters))).long()
            labels = smoothing.map_labels(labels, parameters)
            for index in range(model.classes):
                counts[index] += (labels == index).sum(dim=0)
            if isinstance(model.transformation, Geometric):
                values = model.attack_values[number]
                labels = model.transformation.labels_of_content(labels, values)
            hits += (labels == self.guess).sum(dim=0)
        return counts, hits.numpy()

    def against(self, certified: torch.Tensor, families: int) -> dict[str, int]:
        """What the attacks did to certified pixels, right or wrong.

        Args:
            certified (torch.Tensor): Shape (H, W), bool.
            families (int): Attacks on all images, which the binomial tests are corrected for.

        Returns:
            dict[str, int]: 'doubtful', the pixels whose class had no majority at some attack, and
            'broken', those of them whose class has less than half of the probability beyond doubt.
        """
        mask = certified.numpy()
        ever, broken = np.zeros_like(mask), np.zeros_like(mask)
        level = BROKEN_LEVEL / max(int(mask.sum()) * families, 1)
        for number, (image, hits) in enumerate(zip(self.images, self.hits, strict=True)):
            doubtful = mask & (hits * 2 <= self.draws)
            ever |= doubtful
            if doubtful.any():
                _, hits = self.sampled(image, number, SURE_DRAWS, SURE_SEED)
                broken |= doubtful & (
                    p_value_table(SURE_DRAWS, 0.5, 'holdout')[SURE_DRAWS - hits] < level
                )
        return {'doubtful': int(ever.sum()), 'broken': int(broken.sum())}


def write_picture(name: str, picture: np.ndarray) -> None:
    """Writes a picture of the docs."""
    cv2.imwrite(str(IMAGES / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


def trained_by(name: str) -> str:
    """The config that trains the base model of a config."""
    kind, _, transformation = name.partition('-')
    if kind == 'cells':
        return CELLS_MODEL + LARGE * name.endswith(LARGE)
    if kind == 'direct' and transformation in BESIDE_CELLS:
        return 'direct-brightness-contrast'
    return name


def config_file(name: str) -> Path:
    """The file of a config."""
    size = '360x480' if name.endswith(LARGE) else '180x240'
    return CONFIGS / f'{name.removesuffix(LARGE)}_fast-scnn_camvid-{size}.py'


def totals(attack: dict[str, Any]) -> dict[str, Any]:
    """An attack's counts of pixels, added up over the images.

    Args:
        attack (dict): What ``Study.attack`` stores.

    Returns:
        dict: The parameters tried, the counts, and in how many images certified <= attacked <=
        clean, in pixels that the smoothed model labels rightly (the second by definition).
    """
    images = attack['images']
    found: dict[str, Any] = {'values': attack['values'], 'images': len(images)}
    for key in ('labelled', 'certified', 'certified_right', 'doubtful', 'broken'):
        found[key] = sum(image[key] for image in images)
    for key in ('clean', 'attacked', 'reach'):
        found[key] = {k: sum(image[key][k] for image in images) for k in images[0][key]}
    found['in_order'] = sum(
        image['certified_right'] <= image['attacked']['smoothed'] <= image['clean']['smoothed']
        for image in images
    )
    return found


def certified_in(folder: Path) -> bool:
    """Whether a run of the test tool came to its end."""
    return (folder / 'certified' / 'summary.json').exists()


def summary(folder: Path) -> dict[str, Any]:
    """Rates, settings and thresholds of a run of the test tool."""
    found = json.loads((folder / 'certified' / 'summary.json').read_text())
    taus = [
        json.loads(path.read_text())['test'].get('tau')
        for path in sorted(folder.glob('certified/certificates-*/*.json'))
    ]
    return {
        'images': found['images'],
        'rates': found['rates'],
        'class_ious': dict(zip(found['classes'], found['per_class']['certIoU'], strict=True)),
        'certificate': found['certificate'],
        'tau': {'least': min(taus), 'median': float(np.median(taus)), 'most': max(taus)},
        **_cut(folder),
    }


def _cut(folder: Path) -> dict[str, Any]:
    """How attack sets were cut into cells: medians over the images, if they were."""
    (votes,) = folder.glob('certified/votes-*')
    cuts = [record.meta.get('partition') for record in read_folder(votes)]
    if not cuts or None in cuts or 'path_lengths' not in cuts[0]:
        return {}
    cells, lengths = (
        float(np.median([np.prod(cut[key]) for cut in cuts])) for key in ('cells', 'path_lengths')
    )
    return {'cells': cells, 'path_length': lengths}
