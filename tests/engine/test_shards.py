"""Independent jobs that share one folder of votes, and the check of what they left."""

import json
import os
import random
import shutil

import cv2
import numpy as np
import pytest
from mmengine.runner import Runner

from mmcert.certifier import certifier
from mmcert.votes import FingerprintError, load_votes, save_votes
from mmcert.votes.merging import Merger
from mmcert.votes.shards import Manifest, Shard
from tests.engine.test_smoothing_hook import Interrupt, votes_files
from tests.openmmlab import run_test, run_tool

IMAGES = 5


@pytest.mark.parametrize(
    'text', ['3', '0/2', '3/2', '-1/2', '1/0', '1/2/3', 'a/b', '', 1 / 2, 3, None, ('1', '2')]
)
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match=r"such as '3/16'|counts from 1"):
        Shard.parse(text)


def test_shards_divide_a_data_set():
    parts = [Shard(index, 4).positions(10) for index in range(1, 5)]
    assert sorted(position for part in parts for position in part) == list(range(10))
    assert list(parts[2]) == [2, 6]
    with pytest.raises(ValueError, match='at most 3 shards'):
        Shard(1, 4).positions(3)


@pytest.fixture
def job(make_config, tmp_path):
    """Runs shards into one folder, each with a work folder of its own."""

    def run(shard, images=IMAGES, results='shared', hooks=(), options=None, **smoothing):
        cfg = make_config(
            images=images,
            smoothing={'shard': shard, 'out_dir': str(tmp_path / results), **smoothing},
            **{'experiment_name': 'shards'} | (options or {}),
        )
        cfg.work_dir = str(tmp_path / 'jobs' / str(shard).replace('/', '-'))
        if not hooks:
            return run_test(cfg)
        runner = Runner.from_cfg(cfg)
        for hook in hooks:
            runner.register_hook(hook)
        return runner.test()

    return run


@pytest.fixture(scope='module')
def templates():
    """Folders that are costly to make, kept for the tests of damage."""
    return {}


@pytest.fixture
def two_shards(job, tmp_path, templates, tmp_path_factory):
    """The folders of two finished jobs: results, votes, manifests."""
    folder = tmp_path / 'shared'
    if 'two' not in templates:
        for shard in ('1/2', '2/2'):
            job(shard)
        templates['two'] = tmp_path_factory.mktemp('template') / 'shared'
        shutil.copytree(folder, templates['two'])
    elif not folder.exists():
        shutil.copytree(templates['two'], folder)
    (votes,) = folder.glob('votes-*')
    return folder, votes


def merge(*arguments, expect=0):
    return run_tool('tools/merge.py', *arguments, expect=expect)


def test_shards_are_one_run(job, tmp_path):
    options = {'test_dataloader.batch_size': 2}
    smoothing = dict(hierarchy=[{'ground': ['road', 'sidewalk']}], draw_every=1)
    expected = job(None, results='whole', **smoothing)
    for shard in ('2/3', '3/3', '1/3'):
        metrics = job(shard, options=options, **smoothing)
        assert metrics.keys() == expected.keys()
    assert votes_files(tmp_path / 'shared') == votes_files(tmp_path / 'whole')
    # Whole images of several jobs lie beside each other, and no job has written a summary of all.
    names = {path.name for path in (tmp_path / 'shared').glob('certificates-*/*')}
    assert names == {path.name for path in (tmp_path / 'whole').glob('certificates-*/*')}
    assert not (tmp_path / 'shared/summary.json').exists()
    counts = [
        json.loads(path.read_text())['images']
        for path in sorted((tmp_path / 'shared').glob('shard-*/summary.json'))
    ]
    assert counts == [2, 2, 1]

    printed = merge(tmp_path / 'shared')
    assert 'cert. mIoU' in printed and f'{IMAGES} images' in printed
    for name in ('summary.json', 'images.jsonl'):
        merged, whole = (tmp_path / folder / name for folder in ('shared', 'whole'))
        assert merged.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    'smoothing',
    [
        dict(n='auto', budget=160, procedure='ordered_holm', selection='auto'),
        dict(procedure='kfwer', k=0.01),
    ],
    ids=['looks', 'kfwer'],
)
def test_a_merge_counts_what_the_jobs_counted(job, tmp_path, smoothing):
    job(None, images=2, results='whole', **smoothing)
    for shard in ('1/2', '2/2'):
        # On a disk of its own, and copied into one folder afterwards.
        job(shard, images=2, results=f'disk-{shard[0]}', **smoothing)
        (votes,) = (tmp_path / f'disk-{shard[0]}').glob('votes-*')
        shutil.copytree(votes, tmp_path / 'common', dirs_exist_ok=True)
    merge(tmp_path / 'common', '--out', tmp_path / 'merged')
    for name in ('summary.json', 'images.jsonl'):
        merged, whole = (tmp_path / folder / name for folder in ('merged', 'whole'))
        assert merged.read_bytes() == whole.read_bytes()


def test_indices_are_divided_and_the_pipeline_is_looked_at_once(job, tmp_path):
    steps = ['LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs']
    pipeline = [{'type': step} for step in steps]
    # One resize to the same size is legal, two are not.
    pipeline.insert(1, {'type': 'Resize', 'scale': (48, 32)})
    options = {
        'test_dataloader.dataset.indices': [4, 1, 0],
        'test_dataloader.dataset.pipeline': pipeline,
    }
    job(None, results='whole', options=options)
    for shard in ('1/2', '2/2'):
        job(shard, options=options)
    assert votes_files(tmp_path / 'shared') == votes_files(tmp_path / 'whole')
    merge(tmp_path / 'shared')
    whole, merged = (tmp_path / name / 'images.jsonl' for name in ('whole', 'shared'))
    assert merged.read_text() == whole.read_text()
    with pytest.raises(ValueError, match='4 shards of 3 images: some would be empty'):
        job('1/4', options=options)


def test_a_killed_job_goes_on_and_is_named_until_then(job, tmp_path, monkeypatch):
    job('1/2')
    with pytest.raises(KeyboardInterrupt):
        job('2/2', hooks=[Interrupt()])
    printed = merge(tmp_path / 'shared', expect=1)
    assert 'shard 2/2: has not finished' in printed
    assert printed.count('no votes, shard 2/2 should have it') == 1 and 'image 3 (' in printed
    sampled = []
    collect = certifier.collect_votes
    monkeypatch.setattr(
        certifier, 'collect_votes', lambda *args, **kw: sampled.append(1) or collect(*args, **kw)
    )
    job('2/2')
    assert len(sampled) == 1
    merge(tmp_path / 'shared')


def test_two_jobs_of_one_shard_do_no_harm(job, two_shards):
    folder, votes = two_shards
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    # A checkpoint that another job of the same shard has left behind or is still writing.
    name = Manifest.read(votes / 'shards/2-of-2.json').images[0]['name']
    (votes / f'{name}.part').write_bytes(b'half')
    job('2/2')
    assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == before


def test_a_job_that_samples_otherwise_is_refused_at_once(job, two_shards):
    _, votes = two_shards
    before = {path: path.read_bytes() for path in votes.rglob('*') if path.is_file()}
    with pytest.raises(FingerprintError, match=r'shard 1/2 is sampled otherwise \(seed: 0 there'):
        job('2/2', votes_dir=str(votes), seed=1)
    assert {path: path.read_bytes() for path in votes.rglob('*') if path.is_file()} == before


def test_a_shard_needs_votes(job):
    with pytest.raises(ValueError, match='votes_dir must not be None'):
        job('1/2', votes_dir=None)


def missing_file(votes, files):
    files[0].unlink()
    return [f'{files[0]}: missing; shard 1/2 had sampled it']


def truncated_file(votes, files):
    files[0].write_bytes(files[0].read_bytes()[:200])
    return [f'cannot read the votes file {files[0]}']


def another_seed(votes, files):
    record = load_votes(files[0])
    record.meta['sampling']['seed'] = 1
    record.meta['fingerprint'] = 'f' * 16
    save_votes(files[0], record)
    return [f'{files[0]}: sampled otherwise than shard 1/2 (seed: 1 there, 0 here)']


def other_weights(votes, files):
    manifest = json.loads((votes / 'shards/2-of-2.json').read_text())
    manifest['sampling']['weights'] = 'f' * 16
    (votes / 'shards/2-of-2.json').write_text(json.dumps(manifest))
    return ['/shards/', 'was run otherwise than shard', "weights: '"]


def another_image(votes, files):
    files[0].write_bytes(files[1].read_bytes())
    return [f'{files[0]}: holds the votes of another image than shard 1/2 certified']


def duplicate_image(votes, files):
    shutil.copy(files[0], votes / 'copy.npz')
    return [f'{votes / "copy.npz"}: is a duplicate, of the same image as {files[0].stem}']


def foreign_image(votes, files):
    record = load_votes(files[0])
    record.meta['digest'] = '0' * 16
    save_votes(votes / 'foreign.npz', record)
    return [f'{votes / "foreign.npz"}: belongs to no shard']


def missing_shard(votes, files):
    (votes / 'shards/2-of-2.json').unlink()
    return ['shard 2/2: missing, no job has begun it (2 images)']


def duplicate_shard(votes, files):
    shutil.copy(votes / 'shards/1-of-2.json', votes / 'shards/1-of-2-copy.json')
    return ['a second manifest of shard 1/2']


def other_division(votes, files):
    manifest = json.loads((votes / 'shards/1-of-2.json').read_text()) | {'shard': '1/3'}
    manifest |= {key: manifest[key][:2] for key in ('sources', 'images')}
    (path := votes / 'shards/1-of-3.json').write_text(json.dumps(manifest))
    os.utime(path, (0, 0))
    return [f'{path}: shard 1/3 is of another division, the newest is into 2']


def truncated_manifest(votes, files):
    path = votes / 'shards/1-of-2.json'
    path.write_bytes(path.read_bytes()[:300])
    return [f'{path}: cannot be read']


def overlapping_shard(votes, files):
    manifest = json.loads((votes / 'shards/1-of-2.json').read_text()) | {'shard': '2/2'}
    manifest |= {key: manifest[key][:2] for key in ('sources', 'images')}
    (votes / 'shards/2-of-2.json').write_text(json.dumps(manifest))
    for name in {path.name for path in votes.glob('*.npz')} - {path.name for path in files}:
        (votes / name).unlink()
    return ['the images of the shards do not make up the data set, as if one had those of another']


def manifest_without_a_key(votes, files):
    path = votes / 'shards/1-of-2.json'
    manifest = json.loads(path.read_text())
    del manifest['images'][0]['certificate']['input']
    path.write_text(json.dumps(manifest))
    return [f'{path}: cannot be read (it lacks input)']


def foreign_array(votes, files):
    np.savez(votes / 'arrays.npz', a=np.zeros(3))
    return [f'{votes / "arrays.npz"} is not a votes file']


def foreign_bytes(votes, files):
    (votes / 'notes.npz').write_text('to be done: all')
    return [f'cannot read the votes file {votes / "notes.npz"}']


def other_settings(votes, files):
    path = votes / 'shards/2-of-2.json'
    manifest = json.loads(path.read_text())
    manifest['settings']['tau'] = 0.7
    path.write_text(json.dumps(manifest))
    return ['was run otherwise', 'tau: 0.']


def other_data(votes, files):
    path = votes / 'shards/2-of-2.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'dataset': '0'}))
    return ['was run otherwise', 'the images of the data set']


def fewer_certificates(votes, files):
    record = load_votes(files[0])
    record.votes.hits[:] = 0
    save_votes(files[0], record)
    return [f'{files[0]}: gives another certificate than shard 1/2 wrote (certified: ']


@pytest.mark.damages
@pytest.mark.parametrize(
    'damage',
    [
        missing_file, truncated_file, another_seed, other_weights, another_image, duplicate_image,
        foreign_image, missing_shard, duplicate_shard, other_division, truncated_manifest,
        other_settings, other_data, fewer_certificates, overlapping_shard, manifest_without_a_key,
        foreign_array, foreign_bytes,
    ],
)  # fmt: skip
def test_damage_is_named(two_shards, damage):
    folder, votes = two_shards
    names = [image['name'] for image in Manifest.read(votes / 'shards/1-of-2.json').images]
    expected = damage(votes, [votes / f'{name}.npz' for name in names])
    printed = merge(folder, expect=1)
    for words in expected:
        assert words in printed
    assert 'nothing was merged (lines above: 1)' in printed, 'one thing, one line'
    assert not (folder / 'summary.json').exists()


def test_random_damage_is_named_or_harmless(two_shards):
    _, votes = two_shards
    whole = [result.to_dict() for result in Merger(votes).results]
    files = [path for path in sorted(votes.rglob('*')) if path.is_file()]
    chance, named = random.Random(0), 0
    for _ in range(60):
        path = chance.choice(files)
        content = path.read_bytes()
        place = chance.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << chance.randrange(8)])
        damaged = content[:place] + chance.choice([b'', flipped + content[place + 1 :]])
        path.write_bytes(damaged)
        merger = Merger(votes)
        assert all(path.stem in line and '\n' not in line for line in merger.problems)
        named += bool(merger.problems)
        assert merger.problems or [result.to_dict() for result in merger.results] == whole
        path.write_bytes(content)
    assert named > 40


def test_one_division_can_be_chosen(two_shards):
    folder, votes = two_shards
    other_division(votes, [])
    merge(folder, '--shards', 2)
    assert 'no manifest of a shard i/7' in merge(folder, '--shards', 7, expect=1)


def test_folders_without_shards_are_told_what_they_lack(two_shards, tmp_path):
    _, votes = two_shards
    assert 'there is no folder' in merge(tmp_path / 'nowhere', expect=2)
    shutil.rmtree(votes / 'shards')
    assert 'no job has left the manifest' in merge(votes, expect=2)


def test_a_job_with_settings_of_its_own_has_votes_of_its_own_and_is_named(job, tmp_path):
    job('1/2', images=2)
    job('2/2', images=2, seed=1)
    printed = merge(tmp_path / 'shared', expect=1)
    assert 'was run otherwise' in printed and 'seed: ' in printed
    assert printed.count('missing, no job has begun it') == 1
    job('2/2', images=2)
    (one,) = (
        path.parent
        for path in (tmp_path / 'shared').glob('votes-*/shards')
        if len(list(path.iterdir())) == 2
    )
    assert 'shard 2/2 was run otherwise' in merge(tmp_path / 'shared', expect=1)
    merge(one)
    assert (tmp_path / 'shared/summary.json').exists()


def test_shards_of_folders_whose_files_differ_do_not_merge(two_shards, job, scenes_root, tmp_path):
    """They may have the same names."""
    folder, _ = two_shards
    other = shutil.copytree(scenes_root, tmp_path / 'other')
    for path in other.rglob('annotations/*.png'):
        cv2.imwrite(str(path), np.zeros((32, 48), np.uint8))
    job('2/2', options={'test_dataloader.dataset.data_root': str(other)})
    assert 'file_sizes' in merge(folder, expect=1)
