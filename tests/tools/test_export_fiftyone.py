"""A run as masks, heat maps and figures; FiftyOne itself is not needed to write them."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmcert.certify import joint_bounds
from mmcert.report.fiftyone_export import ABSTAINED, NO_CLASS, export_samples, open_in_fiftyone
from mmcert.votes import load_votes
from tests.openmmlab import run_test, run_tool


class FakeFiftyOne:
    """What the export calls of FiftyOne; its datasets live as long as this."""

    def __init__(self):
        self.datasets = {}
        fields = {name: self._record(name) for name in ('Segmentation', 'Heatmap', 'Sample')}
        self.__dict__ |= fields | {'DynamicEmbeddedDocument': self._record('document')}

    @staticmethod
    def _record(kind):
        return lambda **fields: SimpleNamespace(made_as=kind, **fields)

    def dataset_exists(self, name):
        return name in self.datasets

    def load_dataset(self, name):
        return self.datasets[name]

    def delete_dataset(self, name):
        del self.datasets[name]

    def Dataset(self, name, persistent):  # noqa: N802
        dataset = SimpleNamespace(name=name, persistent=persistent, info={}, samples=[])
        dataset.add_samples = lambda samples, dynamic: dataset.samples.extend(samples)
        self.datasets[name] = dataset
        return dataset


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_a_run_becomes_masks_heat_maps_and_figures(make_config, tmp_path, scenes_root, monkeypatch):
    run_test(make_config(images=2, smoothing=dict(sigma=0.05)))
    results = tmp_path / 'work/certified'
    out = results / 'fiftyone'
    tool = 'tools/export_fiftyone.py', results, '--data'
    printed = run_tool(*tool, scenes_root)
    assert printed == f'wrote {out}: 2 images\n'
    content = json.loads((out / 'samples.json').read_text())
    lines = [json.loads(line) for line in (results / 'images.jsonl').open()]
    targets = content['mask_targets']
    assert targets['0'] == 'no class' and targets['255'] == 'abstained'
    (certificates,), (votes,) = results.glob('certificates-*'), results.glob('votes-*')
    radii = {line['name']: np.load(certificates / f'{line["name"]}.npz') for line in lines}
    largest = max(maps['radius'].max() for maps in radii.values())
    assert content['largest_radius'] == largest > 0
    for sample, line in zip(content['samples'], lines, strict=True):
        name = sample['name']
        masks = {key: read(out / path) for key, path in sample['masks'].items()}
        heats = {key: read(out / path) for key, path in sample['heatmaps'].items()}
        image = read(out / sample['filepath'])
        assert {one.shape for one in (*masks.values(), *heats.values())} == {image.shape[:2]}
        assert {one.dtype for one in (*masks.values(), *heats.values())} == {np.dtype('uint8')}
        record, labels = load_votes(votes / f'{name}.npz'), read(certificates / f'{name}.png')
        certified = labels != 254
        np.testing.assert_array_equal(masks['certified'] == ABSTAINED, ~certified)
        np.testing.assert_array_equal(masks['certified'][certified], labels[certified] + 1)
        np.testing.assert_array_equal(masks['smoothed'], record.votes.guess + 1)
        np.testing.assert_array_equal(masks['base'], record.base + 1)
        known = record.label != 255
        assert (masks['ground_truth'][~known] == NO_CLASS).all()
        np.testing.assert_array_equal(masks['ground_truth'][known], record.label[known] + 1)
        seen = record.votes.runner_up_hits > 0
        np.testing.assert_array_equal(masks['runner_up'] == NO_CLASS, ~seen)
        np.testing.assert_allclose(heats['vote_share'] / 255, record.votes.hits / 40, atol=0.004)
        shown = heats['radius'] / 255 * largest
        np.testing.assert_allclose(shown, radii[name]['radius'], atol=0.004 * largest)
        bounds = joint_bounds(record.votes, alpha=0.01, selection='holdout')
        np.testing.assert_allclose(heats['lower_bound'] / 255, bounds, atol=0.004)
        # Nothing that is shown is more than what is proven.
        assert (shown <= radii[name]['radius'] * (1 + 1e-6)).all()
        assert (heats['lower_bound'] / 255 <= bounds).all()
        right = (masks['certified'] == masks['ground_truth'])[known].mean()
        assert sample['figures']['certAcc'] == line['certAcc'] == pytest.approx(right)

    clouds = SimpleNamespace(word='cloud', folder='here')
    with pytest.raises(ValueError, match='here has results of a cloud'):
        export_samples(clouds, out, None)

    # Without FiftyOne the tool says so before it writes; a wrong folder leaves what is there.
    monkeypatch.setitem(sys.modules, 'fiftyone', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    refused = run_tool(*tool, scenes_root, '--dataset', 'street', expect=2)
    assert 'pip install "mmcert[fiftyone]"' in refused
    (tmp_path / 'empty').mkdir()
    assert 'none of the images was found' in run_tool(*tool, tmp_path / 'empty', expect=2)
    assert json.loads((out / 'samples.json').read_text()) == content
    refused = run_tool(*tool, scenes_root, '--out', tmp_path / 'work', expect=2)
    assert 'is no earlier export' in refused and results.is_dir()

    fake = FakeFiftyOne()
    monkeypatch.setitem(sys.modules, 'fiftyone', fake)
    for _ in range(2):
        dataset = open_in_fiftyone(out, 'street')
    assert list(fake.datasets) == ['street'] and dataset.persistent
    assert dataset.default_mask_targets[1] == targets['1']
    first, sample = dataset.samples[0], content['samples'][0]
    assert first.filepath == str(out / sample['filepath'])
    assert first.certified.mask_path == str(out / sample['masks']['certified'])
    assert first.radius.made_as == 'Heatmap' and first.radius.range == [0, 255]
    assert first.figures.certAcc == sample['figures']['certAcc']
    fake.Dataset('mine', persistent=True)
    with pytest.raises(ValueError, match='another dataset'):
        open_in_fiftyone(out, 'mine')
