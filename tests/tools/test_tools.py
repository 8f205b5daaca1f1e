"""The command lines, as a user types them."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cv2
import mmseg
import numpy as np
import pytest
import torch

from mmcert.cli import command
from mmcert.commands import certify
from mmcert.votes import load_votes
from tests.engine.test_smoothing_hook import votes_files
from tests.openmmlab import ROOT, run_tool
from tests.test_compat import LITE

PLAIN = ROOT / 'configs/camvid/fast-scnn_noise-s0.25-3k_camvid-360x480.py'


@pytest.fixture
def written_config(make_config, tmp_path):
    """A config file that says ``smoothing`` but names no hook, and its checkpoint."""
    cfg = make_config(images=3, smoothing=dict(votes_dir=str(tmp_path / 'votes')))
    cfg.default_hooks.pop('smoothing')
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return path, cfg.load_from


def test_test_tool_adds_the_hook_and_draws(written_config, tmp_path):
    config, checkpoint = written_config
    printed = run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work',
                  '--show-dir', tmp_path / 'pictures')  # fmt: skip
    assert f'to look at them: mmcert report {tmp_path / "work/certified"}' in printed
    assert 'cert. mIoU' in printed
    assert 'base model, clean image' in printed
    assert len(list((tmp_path / 'pictures').glob('*.png'))) == 3
    assert len(votes_files(tmp_path / 'votes')) == 3


def test_certify_tool_answers_from_votes_alone(written_config, tmp_path):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    printed = run_tool(
        'tools/certify.py', tmp_path / 'votes', '--tau', 0.55, 0.6, 0.9, '--alpha', 0.01,
        '--procedure', 'holm', 'bonferroni', '--selection', 'holdout',
    )  # fmt: skip
    assert 'note: n=40 draws cannot certify anything at tau=0.9' in printed
    assert (tmp_path / 'offline-votes/radius_curve.png').stat().st_size > 10_000
    rows = json.loads((tmp_path / 'offline-votes/offline.json').read_text())['rows']
    assert len(rows) == 6
    (same,) = [r for r in rows if r['tau'] == 0.6 and r['procedure'] == 'holm']
    for name, value in summary['rates'].items():
        if name == 'draws':
            continue
        assert same[name] == pytest.approx(value), name


def test_certify_tool_takes_what_is_not_given_from_the_run(written_config, tmp_path):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work',
             '--cfg-options', 'smoothing.votes_dir=auto')  # fmt: skip
    (votes,) = (tmp_path / 'work/certified').glob('votes-*')
    summary = votes.parent / 'summary.json'
    ran = json.loads(summary.read_text())['rates']

    def answer(*options):
        printed = run_tool('tools/certify.py', votes, '--no-plot', *options)
        offline = votes.parent / f'offline-{votes.name[6:]}' / 'offline.json'
        (row,) = json.loads(offline.read_text())['rows']
        return printed, row

    printed, row = answer()
    assert 'as in the run: tau 0.6, alpha 0.01, procedure holm, selection holdout' in printed
    assert {key: row[key] for key in ran if key != 'draws'} == pytest.approx(
        {key: value for key, value in ran.items() if key != 'draws'}
    )
    printed, row = answer('--procedure', 'ordered_holm')
    assert 'as in the run: tau 0.6, alpha 0.01, selection holdout' in printed
    assert (row['procedure'], row['alpha']) == ('ordered_holm', 0.01)
    refused = run_tool('tools/certify.py', votes.parent, '--out', summary, expect=2)
    assert 'is a file, not a folder' in refused and refused.count('\n') == 1
    summary.unlink()
    printed, row = answer()
    assert 'by default: tau 0.75, alpha 0.001, procedure ordered_holm' in printed


def test_certify_tool_needs_no_framework(written_config, tmp_path):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    blocked = tmp_path / 'blocked'
    blocked.mkdir()
    for name in ('mmengine', 'mmcv', 'mmseg'):
        (blocked / f'{name}.py').write_text('raise ImportError("not to be imported")')
    run_tool('tools/certify.py', tmp_path / 'votes', '--tau', 0.6, PYTHONPATH=f'{blocked}:{ROOT}')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [(['--tau', '0.2'], 'tau must lie in'), (['--alpha', '2'], 'alpha must lie in')],
)
def test_certify_tool_refuses_bad_terms(written_config, tmp_path, arguments, message):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    assert f'error: {message}' in run_tool(
        'tools/certify.py', tmp_path / 'votes', *arguments, expect=2
    )
    damaged = min((tmp_path / 'votes').glob('*.npz'))
    damaged.write_bytes(b'')
    assert damaged.name in run_tool('tools/certify.py', tmp_path / 'votes', expect=2)
    assert 'there is no folder' in run_tool('tools/certify.py', tmp_path / 'none', expect=2)


def test_certify_tool_keeps_the_answers_of_several_folders_apart(written_config, tmp_path):
    config, checkpoint = written_config
    folders = [tmp_path / 'votes', tmp_path / 'other']
    for folder, sigma in zip(folders, (0.25, 0.3), strict=True):
        run_tool(
            'tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work', '--cfg-options',
            f'smoothing.votes_dir={folder}', f'smoothing.sigma={sigma}',
        )  # fmt: skip
    run_tool('tools/certify.py', *folders, '--tau', 0.6, '--no-plot', '--out', tmp_path / 'out')
    answers = [
        json.loads((tmp_path / 'out' / f.name / 'offline.json').read_text()) for f in folders
    ]
    assert [a['sampling']['perturbation']['sigma'] for a in answers] == [0.25, 0.3]


def test_what_is_wrong_is_said_before_a_runner_is_built(written_config, tmp_path, monkeypatch):
    config, checkpoint = written_config
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    for name, content in (
        ('list', [1]),
        ('number', 3),
        ('empty', {}),
        ('wrong', {'state_dict': 1}),
    ):
        torch.save(content, f'{name}.pth')
    (tmp_path / 'cut.pth').write_bytes(b'PK\x03\x04')
    sigma, radius = ('--cfg-options', 'smoothing.sigma=0.25'), ('--radius', '0.1')
    monkeypatch.setattr('mmengine.runner.Runner.from_cfg', None)
    for words, message in (
        (('test', '--work-dir', 'file'), '--work-dir'),
        (('test', '--show-dir', 'file'), 'smoothing.show_dir file cannot be written'),
        (('test', *sigma, 'smoothing.out_dir=file'), 'smoothing.out_dir'),
        (('test', *sigma, 'smoothing.votes_dir=3'), 'votes_dir must name a folder, got 3'),
        (('test', *sigma, 'smoothing.denoiser=x'), 'smoothing.denoiser must be a dict'),
        (('test', *sigma, 'smoothing.hierarchy=x'), "unknown hierarchy 'x'"),
        (('test', *sigma, 'smoothing.tau=1'), 'tau must lie in [0.5, 1), got 1'),
        (('test', *sigma, 'smoothing.n=0'), 'n must be an integer of at least 1, got 0'),
        (('test', *sigma, 'smoothing.alpha=0'), 'alpha must lie in (0, 1), got 0'),
        (('test', *sigma, 'test_dataloader=None'), 'config.py has no test_dataloader'),
        (('test', *sigma, 'model=None', 'test_cfg=None'), 'config.py has no model, test_cfg'),
        (('test', '--launcher', 'pytorch'), 'RANK is not set'),
        (('test', '--launcher', 'slurm'), 'SLURM_PROCID is not set'),
        (('test', 'list.pth'), 'list.pth holds no weights: a checkpoint is a state dict'),
        (('test', 'number.pth'), 'number.pth holds no weights'),
        (('test', 'empty.pth'), 'empty.pth holds no weights'),
        (('attack', 'wrong.pth', *radius), 'wrong.pth holds no weights'),
        (('plan', 'wrong.pth'), 'wrong.pth holds no weights'),
        (('test', tmp_path), 'is a folder, not a checkpoint'),
        (('test', 'cut.pth'), 'cut.pth is not a checkpoint'),
        (('attack', '--radius', '99'), 'certifies no radius of 99'),
        (('attack', '--radius', '-1'), 'radii must be positive, got [-1.0]'),
        (('attack', *radius, *sigma, "smoothing.resolution='logits'"), 'of pixels'),
        (('attack', *radius, '--device', 'cuda'), '--device goes with --model'),
        (('redraw', '--votes', '.', '--choice-seed', '-1'), "of at least 0, got '-1'"),
        (('train', '--amp'), '--amp is for a CUDA device'),
        (('train', *sigma, 'optim_wrapper=None'), 'config.py has no optim_wrapper'),
        (
            ('train', *sigma, 'load_from=no.pth'),
            'there is no checkpoint no.pth; load_from names it',
        ),
        (('train', *sigma, 'load_from=empty.pth'), 'empty.pth holds no weights'),
        (('train_denoiser',), 'the model must be an mmcert.DenoiserModel, got EncoderDecoder'),
        (('train_surrogate', '--pictures', '-1'), "of at least 0, got '-1'"),
    ):
        if '--amp' in words and torch.cuda.is_available():
            continue
        name, *options = words
        if not name.startswith('train') and not str(options[0]).endswith('.pth'):
            options = [*([] if options[0] == tmp_path else [checkpoint]), *options]
        options += [] if '--work-dir' in options or name == 'plan' else ['--work-dir', 'work']
        printed = run_tool(f'tools/{name}.py', config, *options, expect=2)
        *_, last = printed.strip().splitlines()
        assert last.startswith('error: ') and message in last, printed
        assert printed.count('\n') <= 3 and 'Traceback' not in printed
    assert not Path('work').exists()


def test_what_of_a_config_cannot_be_built_is_named(written_config, tmp_path):
    data = [f'test_dataloader.dataset.{entry}' for entry in (
        '_delete_=True', 'type=mmseg.BaseSegDataset', 'data_prefix.img_path=img')]  # fmt: skip
    root = 'test_dataloader.dataset.data_root='
    (tmp_path / 'empty/img').mkdir(parents=True)
    given = ['tools/test.py', *written_config, '--work-dir', tmp_path / 'work']
    for options, message in (
        (['model=x'], 'the config cannot be built: TypeError: model should be a nn.Module'),
        (['model.backbone=x'], 'x of the config cannot be built: TypeError: cfg should be a dict'),
        (['model.backbone.foo=3'], 'UNet of the config cannot be built: TypeError: UNet.__init__'),
        ([*data, f'{root}none'], "BaseSegDataset of the config cannot be built: FileNotFoundError: "
                                 "[Errno 2] No such file or directory: 'none/img'"),
        ([*data, f'{root}{tmp_path}/empty'], 'It has found no data: look at its data_root'),
    ):  # fmt: skip
        printed = run_tool(*given, '--cfg-options', *options, expect=2)
        *_, last = printed.strip().splitlines()
        assert last.startswith('error: ') and message in last and 'Traceback' not in printed
    assert 'Traceback' in run_tool(*given, '--debug', '--cfg-options', *options, expect=1)


def test_a_type_that_nobody_knows_is_named(written_config, tmp_path):
    options = '--work-dir', tmp_path / 'work', '--cfg-options', 'model.type=Unet'
    printed = run_tool('tools/test.py', *written_config, *options, expect=2)
    assert printed.strip().endswith('error: Unet is not in the mmseg::model registry')


def test_pictures_and_certify_need_something_to_certify(make_config, tmp_path, monkeypatch, capsys):
    cfg = make_config(images=1)
    cfg.pop('smoothing')
    cfg.default_hooks.pop('smoothing')
    cfg.dump(tmp_path / 'plain.py')
    printed = run_tool(
        'tools/test.py', tmp_path / 'plain.py', cfg.load_from, '--show-dir', 'x', expect=2
    )
    assert 'the config has no `smoothing`' in printed
    printed = run_tool(
        'tools/test.py', tmp_path / 'plain.py', cfg.load_from, '--work-dir', tmp_path / 'work'
    )
    assert 'no `smoothing` in the config: nothing is certified' in printed
    monkeypatch.setattr('sys.argv', ['mmcert certify', str(tmp_path / 'plain.py'), cfg.load_from])
    assert certify.main() == 2
    assert 'plain.py has no `smoothing`, so there is nothing' in capsys.readouterr().err


def test_train_tool_trains_what_the_test_tool_certifies(make_config, tmp_path):
    cfg = make_config(
        **{'train_cfg.max_iters': 3, 'train_cfg.val_interval': 3},
        **{'default_hooks.checkpoint.interval': 3},
    )
    cfg.load_from = None
    cfg.dump(tmp_path / 'config.py')
    run_tool('tools/train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'work')
    printed = run_tool('tools/test.py', tmp_path / 'config.py', tmp_path / 'work/iter_3.pth')
    assert 'certified/certAcc' in printed


def test_an_interrupted_training_says_how_to_go_on(make_config, tmp_path, monkeypatch):
    cfg = make_config()
    cfg.load_from = None
    cfg.dump(tmp_path / 'config.py')
    monkeypatch.setattr('mmengine.runner.Runner.train', mock.Mock(side_effect=KeyboardInterrupt))
    before = signal.getsignal(signal.SIGINT)
    printed = run_tool(
        'tools/train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'work', expect=130
    )
    signal.signal(signal.SIGINT, before)
    assert printed.endswith('interrupted; the same command with --resume continues\n')


def test_a_config_that_knows_nothing_of_mmcert_is_certified_by_options(make_config, tmp_path):
    cfg = make_config(images=1)
    cfg.pop('smoothing')
    cfg.default_hooks.pop('smoothing')
    config, checkpoint = tmp_path / 'plain.py', cfg.load_from
    cfg.dump(config)
    printed = run_tool(
        'tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work', '--cfg-options',
        'default_hooks.smoothing.type=mmcert.SmoothingHook', 'smoothing.sigma=0.25',
    )  # fmt: skip
    assert 'certified/certAcc' in printed


@pytest.mark.skipif(LITE, reason='stock tools need the full mmcv: see `make test-full`')
def test_the_stock_test_tool_certifies(written_config, tmp_path):
    config, checkpoint = written_config
    stock = Path(mmseg.__file__).parent / '.mim/tools/test.py'
    printed = run_tool(
        stock, config, checkpoint, '--work-dir', tmp_path / 'work', '--cfg-options',
        'default_hooks.smoothing.type=mmcert.SmoothingHook',
    )  # fmt: skip
    assert 'certified/certAcc' in printed


@pytest.mark.skipif(LITE, reason='stock tools need the full mmcv: see `make test-full`')
def test_the_stock_train_tool_trains_with_noise(make_config, tmp_path):
    cfg = make_config(**{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2})
    cfg.load_from = None
    cfg.dump(tmp_path / 'config.py')
    stock = Path(mmseg.__file__).parent / '.mim/tools/train.py'
    assert 'loss' in run_tool(stock, tmp_path / 'config.py', '--work-dir', tmp_path / 'work')


@pytest.mark.slow
@pytest.mark.parametrize('distribute', ['images', 'draws'])
def test_two_processes_give_the_votes_of_one(written_config, tmp_path, distribute):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    expected = votes_files(tmp_path / 'votes')
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    run_tool(
        '-m', 'torch.distributed.run', '--nproc-per-node=2', '--master-port=29533',
        'tools/test.py', config, checkpoint, '--launcher=pytorch', '--work-dir', tmp_path / 'work2',
        '--cfg-options', f'smoothing.votes_dir={tmp_path / "votes2"}',
        f'smoothing.distribute={distribute}', 'smoothing.draw_every=1',
    )  # fmt: skip
    assert votes_files(tmp_path / 'votes2') == expected
    both = json.loads((tmp_path / 'work2/certified/summary.json').read_text())
    assert both['rates'] == summary['rates']
    assert both['images'] == 3
    assert len(list((tmp_path / 'work2/certified').glob('vis-*/*.png'))) == 3


@pytest.mark.slow
@pytest.mark.parametrize('distribute', ['images', 'draws'])
def test_two_processes_share_a_shard(written_config, tmp_path, distribute):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    shared = tmp_path / 'shared'
    for shard in ('1/2', '2/2'):
        run_tool(
            '-m', 'torch.distributed.run', '--nproc-per-node=2', '--master-port=29534',
            'tools/test.py', config, checkpoint, '--launcher=pytorch',
            '--work-dir', tmp_path / 'jobs' / shard[0],
            '--cfg-options', f'smoothing.out_dir={shared}', 'smoothing.votes_dir=auto',
            f'smoothing.distribute={distribute}', f'smoothing.shard={shard}',
        )  # fmt: skip
    assert votes_files(shared) == votes_files(tmp_path / 'votes')
    run_tool('tools/merge.py', shared)
    for name in ('summary.json', 'images.jsonl'):
        assert (shared / name).read_bytes() == (tmp_path / 'work/certified' / name).read_bytes()


def test_camvid_converter_brings_the_tutorial_layout_into_ours(tmp_path):
    source = tmp_path / 'CamVid'
    for split in ('train', 'val', 'test'):
        lines = []
        for part in (split, f'{split}annot'):
            (source / part).mkdir(parents=True)
        for k in range(2):
            name = f'0001TP_{split}_{k}.png'
            cv2.imwrite(str(source / split / name), np.full((36, 48, 3), 40 * k, np.uint8))
            labels = np.arange(36 * 48).reshape(36, 48) % 12
            cv2.imwrite(str(source / f'{split}annot' / name), labels.astype(np.uint8))
            lines.append(f'/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}')
        (source / f'{split}.txt').write_text('\n'.join(lines))
    converter = 'tools/dataset_converters/camvid.py'
    run_tool(converter, source, '--out', tmp_path / 'camvid')
    assert len(list((tmp_path / 'camvid/images/train').iterdir())) == 2
    labels = cv2.imread(str(tmp_path / 'camvid/annotations/val/0001TP_val_0.png'), -1)
    assert sorted(np.unique(labels)) == [*range(11), 255]
    cv2.imwrite(str(source / 'valannot/0001TP_val_0.png'), np.full((36, 48), 200, np.uint8))
    assert 'found label 200' in run_tool(converter, source, '--out', tmp_path / 'other', expect=2)
    assert 'train.txt' in run_tool(converter, tmp_path, '--out', tmp_path / 'third', expect=2)


HELP = """
import contextlib, io, runpy, sys
for tool in sys.argv[1:]:
    sys.argv, printed = [tool, '--help'], io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(tool, run_name='__main__')
    except SystemExit:
        pass
    assert 'usage:' in printed.getvalue(), tool
    slow = {'torch', 'mmengine', 'mmcv', 'scipy.stats', 'scipy.optimize', 'matplotlib'}
    assert not slow & set(sys.modules), (tool, slow & set(sys.modules))
"""


def test_every_tool_explains_itself_without_slow_imports():
    # The tool of auditors stands alone, and names the tails as SciPy does.
    tools = sorted(map(str, {*(ROOT / 'tools').rglob('*.py')} - {ROOT / 'tools/verify.py'}))
    done = subprocess.run([sys.executable, '-c', HELP, *tools], capture_output=True, text=True)
    assert done.returncode == 0 and len(tools) >= 7, done.stderr


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['smoothing.sigma=-1'], 'error: sigma must be positive'),
        (['smoothing.taus=0.7'], 'error: unknown key in `smoothing`: taus. Legal keys: sigma'),
        (['smoothing.seed=x'], "error: seed must be an integer, got 'x'"),
        (['smoothing.n=5'], 'error: n=5 draws cannot certify anything'),
        (['smoothing.procedure=hochberg'], "error: unknown procedure 'hochberg'"),
        (['smoothing'], 'takes key=value'),
        (['load_from.x=1'], 'TypeError'),
    ],
)
def test_what_the_user_can_mend_is_one_line(written_config, tmp_path, options, message):
    config, checkpoint = written_config
    arguments = ['tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work']
    printed = run_tool(*arguments, '--cfg-options', *options, expect=2)
    assert message in printed and 'Traceback' not in printed
    if 'draws cannot' not in message and 'error' in message:
        # Said before anything is built and logged.
        assert printed.count('\n') <= 3 and 'mmengine' not in printed


def test_missing_files_are_one_line(written_config, tmp_path):
    config, checkpoint = written_config
    for tool in ('test', 'train', 'train_surrogate', 'plan'):
        files = [tmp_path / 'none.py', *[checkpoint][: tool == 'test']]
        printed = run_tool(f'tools/{tool}.py', *files, expect=2)
        assert printed.startswith('error: there is no config') and 'none.py' in printed
    for tool in ('test', 'plan'):
        missing = run_tool(f'tools/{tool}.py', config, 'none.pth', expect=2)
        assert missing.strip() == 'error: there is no checkpoint none.pth'
        other = run_tool(f'tools/{tool}.py', config, config, expect=2)
        assert other.strip() == f'error: {config} is not a checkpoint'


def test_modules_that_a_config_cannot_import_are_named_alone(tmp_path):
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['nowhere_at_all'])")
    printed = run_tool('tools/plan.py', tmp_path / 'config.py', expect=2)
    assert 'nowhere_at_all' in printed and 'sys.path' not in printed


def test_a_reader_that_ends_early_ends_the_tool():
    code = 'from mmcert.cli import command; command(lambda: print("x" * 10**6) or 0)()'
    done = subprocess.run(
        f'{sys.executable} -c {shlex.quote(code)} | head -c 1', shell=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b'x', b'')


def test_an_opencv_for_desktops_is_named_with_the_remedy(capsys):
    @command
    def main():
        raise ImportError('libGL.so.1: cannot open shared object file')

    assert main() == 2
    assert 'libGL.so.1' in (said := capsys.readouterr().err) and said.count('\n') == 1
    assert 'opencv-python-headless' in said


def test_bugs_keep_their_traceback():
    @command
    def main():
        np.zeros(2) + np.zeros(3)

    with pytest.raises(ValueError, match='broadcast'):
        main()


def test_votes_of_the_tool_are_readable_by_the_api(written_config, tmp_path):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    record = load_votes(min((tmp_path / 'votes').glob('*.npz')))
    assert record.votes.guess.shape == record.label.shape == (32, 48)


def test_plan_tool_says_what_can_be_certified_and_how_long_it_takes(written_config):
    config, checkpoint = written_config
    printed = run_tool('tools/plan.py', config, checkpoint)
    assert '3 images of 1536 components' in printed
    assert 'The plan can certify.' in printed
    assert 'ms per draw on cpu' in printed and ' s for 3 of them' in printed
    alone = run_tool('tools/plan.py', config)
    assert 'ms per draw' not in alone
    for name in ('bonferroni', 'kfwer, k=0.001', 'ordered_holm', 'same_draws'):
        assert name in alone
    shard = run_tool('tools/plan.py', config, '--cfg-options', 'smoothing.shard=1/2')
    assert '2 images of 1536 components' in shard
    large = run_tool(
        'tools/plan.py', config, '--size', 1024, 2048, '--limit', 500, '--cfg-options',
        'smoothing.n=auto', 'smoothing.budget=400',
    )  # fmt: skip
    assert '500 images of 2097152 components' in large
    assert 'the first look comes after' in large


def test_plan_tool_refuses_what_a_run_would(written_config):
    config, checkpoint = written_config
    refused = run_tool('tools/plan.py', config, '--cfg-options', 'smoothing.n=5', expect=2)
    assert refused.count('The smallest n that can is 24') == 1
    assert 'has no `smoothing`' in run_tool('tools/plan.py', PLAIN, expect=2)
    assert 'either a model' in run_tool(
        'tools/plan.py', config, checkpoint, '--size', 10, 10, expect=2
    )
    assert 'sigma must be positive' in run_tool(
        'tools/plan.py', config, '--cfg-options', 'smoothing.sigma=-1', expect=2
    )


def test_certify_tool_answers_with_every_procedure(written_config, tmp_path):
    config, checkpoint = written_config
    run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'work')
    printed = run_tool(
        'tools/certify.py', tmp_path / 'votes', '--tau', 0.55, '--alpha', 0.01, '--procedure',
        'holm', 'kfwer', 'ordered_holm', '--selection', 'holdout', 'same_draws', '--k', 0.01,
    )  # fmt: skip
    assert 'over all 3 inputs' in printed
    assert 'Choosing a row because of what it shows voids its promise' in printed
    answer = json.loads((tmp_path / 'offline-votes/offline.json').read_text())
    rows = {(row['procedure'], row['selection']): row for row in answer['rows']}
    assert len(rows) == 6
    for selection in ('holdout', 'same_draws'):
        holm, ordered = rows['holm', selection], rows['ordered_holm', selection]
        assert ordered['certified_share'] >= holm['certified_share']
        assert rows['kfwer', selection]['k'] == 0.01
        assert set(holm['regions']) == {'near', 'away'}
    joint = [row for row in answer['joint_curve'] if row['selection'] == 'holdout']
    assert [row['radius'] for row in joint] == sorted(row['radius'] for row in joint)
    assert (np.diff([row['certAcc'] for row in joint]) <= 0).all()
    assert 'kfwer needs k' in run_tool(
        'tools/certify.py', tmp_path / 'votes', '--procedure', 'kfwer', expect=2
    )


def test_audit_tool_reports_and_fails_when_it_saw_too_little(tmp_path):
    printed = run_tool(
        'tools/audit.py', '--families', 20, '--out', tmp_path / 'audit.json', expect=1
    )
    assert re.search('AUDIT FAILED: .*max-T bootstrap', printed)
    content = json.loads((tmp_path / 'audit.json').read_text())
    assert (content['seed'], content['families']) == (0, 20)
    methods = {finding['method'] for finding in content['findings']}
    assert {'holm, holdout', 'ordered_holm, same_draws', 'peeking at unchanged alpha'} <= methods


def test_certify_tool_reads_a_hierarchy_back_as_it_was_counted(make_config, tmp_path):
    levels = [{'z-flat': ['road', 'sidewalk'], 'a-tall': ['building', 'tree', 'sign', 'sky']}]
    smoothing = dict(votes_dir=str(tmp_path / 'votes'), sigma=0.05, hierarchy=levels)
    cfg = make_config(smoothing=smoothing)
    cfg.dump(tmp_path / 'config.py')
    run_tool(
        'tools/test.py', tmp_path / 'config.py', cfg.load_from, '--work-dir', tmp_path / 'work'
    )
    summary = json.loads((tmp_path / 'work/certified/summary.json').read_text())
    printed = run_tool(
        'tools/certify.py', tmp_path / 'votes', '--tau', 0.6, '--alpha', 0.01, '--procedure',
        'holm', '--selection', 'holdout',
    )  # fmt: skip
    (row,) = json.loads((tmp_path / 'offline-votes/offline.json').read_text())['rows']
    for name in ('CIG', 'cCIG', 'abstain_level1', 'certAcc_level1'):
        assert row[name] == pytest.approx(summary['rates'][name]), name
    assert row['abstain_level1'] < row['abstain_level0']
    assert 'holm, holdout, tau = 0.6, alpha = 0.01:' in printed


def test_a_checkpoint_may_be_named_from_the_home_folder(monkeypatch, tmp_path):
    from mmcert.cli import check_checkpoint
    from mmcert.engine.weights import check_weights

    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'weights.pth')
    check_checkpoint('~/weights.pth')
    check_weights('~/weights.pth')
