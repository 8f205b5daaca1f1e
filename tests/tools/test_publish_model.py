"""A published model: bare weights under their hash, its results, and the way to the Hub."""

import hashlib
import json
import sys
import types

import pytest
import torch
import yaml
from mmengine.config import Config

from tests.openmmlab import run_tool
from tests.zoo.support import check_entry


@pytest.fixture
def trained(make_config, tmp_path):
    """A config file, and a checkpoint as training leaves it."""
    cfg = make_config(images=2)
    cfg.default_hooks.pop('smoothing')
    checkpoint = tmp_path / 'iter_3.pth'
    state = torch.load(cfg.load_from)['state_dict']
    meta = dict(dataset_meta=dict(classes=('a', 'b')), cfg='work_dir = "/home/me"', seed=3, iter=3)
    torch.save(
        dict(
            meta=meta,
            state_dict=state,
            message_hub={},
            optimizer=dict(state={0: dict(exp_avg=torch.ones(100_000))}),
        ),
        checkpoint,
    )
    cfg.load_from = str(checkpoint)
    config = tmp_path / 'unet_scenes.py'
    cfg.dump(config)
    return config, checkpoint


def publish(config, checkpoint, tmp_path, *arguments, expect=0):
    out = tmp_path / 'zoo/unet.pth'
    printed = run_tool(
        'tools/publish_model.py', checkpoint, out, '--config', config, *arguments, expect=expect
    )
    return printed, sorted((tmp_path / 'zoo').glob('*'))


def test_weights_are_bare_and_named_by_their_hash(trained, tmp_path):
    config, checkpoint = trained
    _, files = publish(config, checkpoint, tmp_path)
    card, weights, code, metafile = files
    assert [file.suffix for file in files] == ['.md', '.pth', '.py', '.yml']
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.name == f'unet-{digest[:8]}.pth'
    saved = torch.load(weights)
    assert set(saved) == {'meta', 'state_dict'}
    assert set(saved['meta']) == {'dataset_meta', 'iter', 'mmcert_version'}
    before = torch.load(checkpoint)['state_dict']
    assert all(torch.equal(before[key], value) for key, value in saved['state_dict'].items())
    assert weights.stat().st_size < checkpoint.stat().st_size / 2
    (entry,) = yaml.safe_load(metafile.read_text())['Models']
    assert entry == {
        'Name': 'unet_scenes',
        'In Collection': 'SegCertify',
        'Config': str(config),
        'Weights': weights.name,
        'Metadata': {'Training Data': 'StreetScenes', 'SHA256': digest},
    }
    assert 'None: the model was not certified.' in card.read_text()
    assert Config.fromfile(code).load_from is None
    # The same weights make the same file.
    assert publish(config, checkpoint, tmp_path)[1] == files


def test_card_and_entry_tell_the_certified_results_of_these_weights_alone(trained, tmp_path):
    config, checkpoint = trained
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    summary = tmp_path / 'work/certified/summary.json'
    _, files = publish(
        config, checkpoint, tmp_path, '--summary', summary, '--url', 'https://example.org/zoo'
    )
    rates = json.loads(summary.read_text())['rates']
    card, weights, _, metafile = (file.read_text() if file.suffix != '.pth' else file
                                  for file in files)  # fmt: skip
    row = next(line for line in card.splitlines() if line.startswith('| 2 | holm | 0.6 | 0.01 |'))
    assert f'| {rates["certAcc"]:.4g} | {rates["mIoU"]:.4g} |' in row
    assert 'With probability 0.99 per image, no perturbation of l2 norm up to' in card
    assert card.startswith('---\nlicense: apache-2.0\n')
    (entry,) = yaml.safe_load(metafile)['Models']
    check_entry(entry)
    assert entry['Weights'] == f'https://example.org/zoo/{weights.name}'
    (result,) = entry['Results']
    assert result['Metrics']['certified accuracy'] == pytest.approx(rates['certAcc'])
    # The published file is what was certified: its votes are found again.
    printed = run_tool('tools/test.py', config, weights, '--work-dir', tmp_path / 'work')
    assert '2 images have votes' in printed
    # Of other weights, nothing is told.
    saved = torch.load(checkpoint)
    next(iter(saved['state_dict'].values())).add_(1)
    torch.save(saved, checkpoint)
    printed, _ = publish(config, checkpoint, tmp_path, '--summary', summary, expect=2)
    assert 'is about other weights' in printed


def test_says_what_cannot_be_published(trained, tmp_path):
    config, checkpoint = trained
    bad = tmp_path / 'bad.json'
    bad.write_text('{}')
    printed, _ = publish(config, checkpoint, tmp_path, '--summary', bad, expect=2)
    assert 'bad.json is not the summary.json of a certification' in printed
    saved = torch.load(checkpoint)
    next(iter(saved['state_dict'].values())).fill_(float('nan'))
    torch.save(saved, checkpoint)
    assert 'has NaN' in publish(config, checkpoint, tmp_path, expect=2)[0]
    saved['state_dict'].popitem()
    torch.save(saved, checkpoint)
    assert (
        'iter_3.pth does not fit the config: missing'
        in (publish(config, checkpoint, tmp_path, expect=2)[0])
    )


class StandIn(types.ModuleType):
    """Stands for huggingface_hub: notes what is uploaded."""

    def __init__(self):
        super().__init__('huggingface_hub')
        self.calls = []

    def HfApi(self):  # noqa: N802
        return self

    def create_repo(self, repo_id, *, repo_type, exist_ok):
        assert (repo_type, exist_ok) == ('model', True)
        return f'https://huggingface.co/{repo_id}'

    def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, repo_type):
        self.calls.append((repo_id, path_in_repo, path_or_fileobj))


def test_uploads_to_the_hub(trained, tmp_path, monkeypatch):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, 'huggingface_hub', stand_in)
    printed, files = publish(*trained, tmp_path, '--hub', 'me/unet')
    weights = files[1]
    assert 'uploaded to https://huggingface.co/me/unet' in printed
    names = {name: path for repo, name, path in stand_in.calls if repo == 'me/unet'}
    assert set(names) == {'README.md', weights.name, f'{weights.stem}.py', f'{weights.stem}.yml'}
    assert names['README.md'] == str(files[0])
    (entry,) = yaml.safe_load(files[3].read_text())['Models']
    assert entry['Weights'] == f'https://huggingface.co/me/unet/resolve/main/{weights.name}'


def test_says_how_to_get_the_hubs_client(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    printed, files = publish(*trained, tmp_path, '--hub', 'me/unet', expect=2)
    assert "pip install 'mmcert[hub]'" in printed
    assert files == []
