"""What users get wrong: one line each, with exit code 2, before anything is sampled or made."""

import os

import cv2
import numpy as np
import pytest

from tests.integrations.test_command import data, mmcert  # noqa: F401

MORE = """
class Labels(torch.nn.Module):
    def forward(self, images):
        return images.sum(1).gt(0).long()

def labels():
    return Labels()

def raises():
    raise KeyError('weights')
"""
L2 = ('--radius', '0.05')
WRONG = [
    *(
        ('attack', options, (*L2, *words), message)
        for options, words, message in (
            ({'images': 'none'}, (), 'there is no folder'),
            ({'images': 'empty'}, (), 'no images in'),
            ({'images': 'text'}, (), 'text/one.png is no picture'),
            ({'images': 'cut'}, (), 'cut/one.png cannot be read: image file is truncated'),
            ({'images': 'deep'}, (), 'deep/one.png has more than 8 bits for each colour'),
            ({'images': 'plain', 'labels': 'wide'}, (), 'but its image'),
            ({'images': 'plain', 'labels': 'seven'}, (), 'seven/one.png: the label map has class'),
            ({'model': 'broken'}, (), 'have NaN or infinite values'),
            ({'model': 'raises'}, (), "raises: KeyError: 'weights'"),
            ({}, ('--classes', '7'), 'has 3 classes, but 7 were given'),
            ({'out': 'file'}, (), 'is a file, not a folder'),
            ({}, ('--sigma', 'nan'), 'sigma must be a finite number, got nan'),
            ({}, ('--alpha', '2'), 'alpha must lie in (0, 1), got 2.0'),
            ({}, ('--tau', '0.4'), 'tau must lie in [0.5, 1), got 0.4'),
            ({}, ('--limit', '0'), "at least 1, got '0'"),
            ({}, ('--mean', '0', '0'), 'mean and std must have one number, or three'),
            ({}, ('--mean', '123'), 'is beyond white, which is 1'),
            ({}, ('--cfg-options', 'a=1'), '--cfg-options goes with a config'),
        )
    ),
    ('certify', {'out': 'images/a/out'}, (), 'which is in the folder of images images: their'),
    ('certify', {'images': 'images/a/one.png'}, (), 'images/a/one.png is a file: give the folder'),
    ('certify', {'images': 'deep'}, (), 'deep/one.png has more than 8 bits for each colour'),
    ('certify', {'images': 'plain', 'labels': 'seven'}, (), 'seven/one.png: the label map has'),
    ('certify', {}, ('--device', 'meta'), 'device meta cannot be used'),
    ('certify', {}, ('--mean', '0', '0'), 'mean and std must have one number, or three'),
    ('certify', {}, ('--one-channel', 'scores'), 'returns 3 channels, but one_channel='),
    ('attack', {}, (), '--attack l2 needs --radius'),
    ('attack', {}, ('--radius', '-1'), 'radii must be positive, got [-1.0]'),
    ('attack', {}, ('--radius', '99'), 'certifies no radius of 99'),
    ('attack', {}, (*L2, '--losses', 'mse'), 'unknown losses mse'),
    ('attack', {}, (*L2, '--target', 'cow'), "there is no class 'cow'"),
    ('attack', {}, (*L2, '--judged', '0'), 'judged must be at least 1, got 0'),
    ('attack', {}, ('--attack', 'parameters'), 'not about the parameters of a transformation'),
    ('attack', {'model': 'onnx:a.onnx'}, L2, 'gives no gradient, so it cannot be attacked'),
    ('attack', {'model': 'labels'}, (*L2, '--classes', '2'), 'has no gradient from its labels'),
    ('corruptions', {'images': 'plain', 'labels': 'seven'}, (), 'the label map has class 7'),
    ('corruptions', {}, ('--corruptions', 'rain'), "unknown corruption 'rain'"),
    ('corruptions', {}, ('--severities', '6'), 'severities must be of 1 to 5, got [6]'),
    ('corruptions', {}, ('--compare', 'denoised'), 'there is no denoised model'),
    ('plan', {}, ('--taus', '0.4'), 'tau must lie in [0.5, 1), got 0.4'),
    ('plan', {'images': 'plain', 'labels': 'seven'}, (), 'the label map has class 7'),
    ('plan', {}, ('--size', '4', '4'), 'give either a model to time on its inputs, or --size'),
    ('redraw', {}, ('--votes', 'nowhere'), 'there is no folder nowhere'),
    ('redraw', {}, ('--votes', os.curdir), 'no votes files (*.npz) in'),
]
OF_CONFIGS = [
    (('attack', *L2), 'give a config and a checkpoint, or --model'),
    (('attack', 'a.py', 'b.pth', *L2, '--model', 'hf:a'), 'give either a config (a.py) or --model'),
    (('attack', 'a.py', 'b.pth', *L2, '--images', 'photos'), 'it is a number of inputs'),
    (('attack', 'a.py', 'b.pth', *L2, '--images', '0'), 'it is a number of inputs'),
    (('attack', 'a.py', 'b.pth', *L2, '--sigma', '1'), '--cfg-options smoothing.sigma=1.0'),
    (('attack', 'a.py', 'b.pth', *L2), 'there is no checkpoint b.pth'),
    (('plan',), 'give a config, or --model with --images and --sigma, or --sigma with --size'),
    (('plan', '--sigma', '1'), 'or --sigma with --size'),
    (('certify', '.', '--sigma', '1'), 'such as --model hf:.'),
    (('report', '.'), 'there is no summary.json in .; give a folder of results, for example'),
    (('plan', 'a.py'), 'there is no config a.py'),
    (('plan', '--sigma', '-1', '--size', '4', '4'), 'sigma must be positive, got -1.0'),
    (('plan', '--sigma', '1', '--size', '0', '4'), 'a side of an image must be an integer of at'),
    (('audit', '--families', '0'), "--families: a number of at least 1, got '0'"),
    (('audit', '--out', os.curdir), '--out takes a file, and . is a folder'),
    (('audit', '--out', f'{__file__}/a'), 'is a file, not a folder'),
    (('merge', 'votes', '--out', __file__), 'is a file, not a folder'),
    (('ensemble', os.curdir, '--member', 'a', 'b'), 'the checkpoint takes a file, and . is a'),
    (('demo', '--work-dir', __file__), 'is a file, not a folder'),
]


@pytest.fixture(scope='module')
def folders(data):  # noqa: F811
    """Images and label maps that are not as they should be, beside the model."""
    picture = cv2.imread(str(data / 'images/a/one.png'))
    label = cv2.imread(str(data / 'labels/a/one.png'), cv2.IMREAD_UNCHANGED)
    wrong = {'plain': picture, 'deep': picture.astype(np.uint16), 'wide': label[:, 1:],
             'seven': label * 0 + 7, 'cut': picture, 'text': None, 'empty': None}  # fmt: skip
    for name, pixels in wrong.items():
        (data / name).mkdir()
        if pixels is not None:
            cv2.imwrite(str(data / name / 'one.png'), pixels)
    whole = (data / 'cut/one.png').read_bytes()
    (data / 'cut/one.png').write_bytes(whole[: len(whole) // 2])
    (data / 'text/one.png').write_text('no picture')
    (data / 'file').write_text('')
    with (data / 'model.py').open('a') as stream:
        stream.write(MORE)
    return data


def contents(folder):
    return sorted(path for path in folder.rglob('*') if path.name != '__pycache__')


@pytest.mark.parametrize(('command', 'options', 'words', 'message'), WRONG)
def test_of_a_model_and_a_folder(command, options, words, message, folders, capsys, monkeypatch):
    if command == 'corruptions':
        pytest.importorskip('imagecorruptions', reason='the extra `corruptions` is not installed')
    monkeypatch.chdir(folders)
    model = options.get('model', 'build')
    model = model if ':' in model else f'py:model.py:{model}'
    given = ['--model', model, '--images', options.get('images', 'images')]
    given += ['--out', options.get('out', 'out'), '--sigma', '0.2', '--mean', '0.4', '--std', '1']
    given += ['--labels', options['labels']] if 'labels' in options else []
    require_refused((command, *given, *words), message, folders, capsys)


@pytest.mark.parametrize(('words', 'message'), OF_CONFIGS)
def test_of_a_config(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if 'there is no config' in message:
        pytest.importorskip('mmengine')
    require_refused(words, message, tmp_path, capsys)


def require_refused(words, message, folder, capsys):
    before = contents(folder)
    code, printed = mmcert(*words, capsys=capsys)
    *_, last = printed.strip().splitlines()
    assert code == 2 and 'error: ' in last and message in last, printed
    assert 'usage:' not in printed
    assert 'Traceback' not in printed
    assert contents(folder) == before
