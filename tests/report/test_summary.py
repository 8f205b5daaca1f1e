import json

import numpy as np
import pytest

from mmcert.metrics import ConfusionAccumulator
from mmcert.metrics.results import InputResult
from mmcert.report.summary import Summary, write_summary

ENTRIES = {
    'alpha': 0.01, 'n0': 10, 'n': 100, 'kind': 'certificate', 'input_type': 'image',
    'component_type': 'pixel', 'certified_space': 'the original image', 'description': 'words',
    'tested_tau': 0.5449,
}  # fmt: skip


def results(digests, **entries):
    label = np.zeros((2, 2), dtype=int)
    counts = ConfusionAccumulator(label, label, 2).count(label == 0)
    return [
        InputResult(str(index), {**ENTRIES, 'input': digest, **entries}, counts)
        for index, digest in enumerate(digests)
    ]


def test_copies_count_once(tmp_path):
    summary = Summary(results('aab'), num_classes=2)
    write_summary(summary, tmp_path)
    together = json.loads((tmp_path / 'summary.json').read_text())['all_images']
    assert (together['images'], together['distinct']) == (3, 2)
    assert together['all_hold'] == pytest.approx(0.99**2)
    assert len((tmp_path / 'images.jsonl').read_text().splitlines()) == 3


def test_a_summary_says_where_same_draws_was_tested():
    text = Summary(results('ab'), num_classes=2).describe()
    assert 'same_draws was tested at 0.5449, above tau' in text


def test_only_what_all_certificates_share_is_stated_of_all():
    first, second = results('ab')
    second.certificate['tested_tau'] = 0.55
    summary = Summary([first, second], num_classes=2)
    assert 'tested_tau' not in summary.certificate and summary.certificate['alpha'] == 0.01
    assert 'tested at 0.5449 to 0.5500' in summary.describe()


def test_an_enumeration_speaks_of_no_draws():
    exact = {'kind': 'exact', 'num_values': 7, 'input_type': 'image', 'component_type': 'pixel',
             'certified_space': 'the original image', 'description': 'words'}  # fmt: skip
    found = [InputResult(result.name, exact, result.counts) for result in results('ab')]
    summary = Summary(found, num_classes=2)
    text = summary.describe()
    assert text.startswith('certified results of 2 images, verified by enumeration, without draws')
    for word in ('probability', 'tau', 'procedure', 'radius', 'smoothed'):
        assert word not in text, word
    values = summary.to_dict()
    assert 'all_images' not in values and values['rates']['draws'] == 7
    assert 'smoothed_aAcc' not in values['rates']
    assert 'smoothed_aAcc' not in found[0].to_dict()


def test_one_estimate_makes_all_of_it_an_estimate():
    summary = Summary([*results('a'), *results('b', kind='estimate')], num_classes=2)
    assert 'all_images' not in summary.to_dict()
    text = summary.describe()
    assert text.startswith('estimated results of 2 images, without proof: ')
    assert 'with probability' not in text
