import hashlib
import os
import stat
from dataclasses import replace

import numpy as np
import pytest

from mmcert.certify import Votes
from mmcert.votes import (
    FingerprintError,
    VotesFileError,
    VotesRecord,
    VotesStore,
    load_votes,
    read_folder,
    save_votes,
    votes_folder,
)
from mmcert.votes.record import votes_digests


def record(seed=0, shape=(4, 5)):
    rng = np.random.default_rng(seed)
    return VotesRecord(
        Votes(guess=rng.integers(0, 5, shape), hits=rng.integers(0, 101, shape), n=100, n0=10),
        {'name': 'image'},
        label=rng.integers(0, 5, shape),
        base=rng.integers(0, 5, shape),
    )


def test_a_record_comes_back_as_it_was(tmp_path):
    written = record()
    save_votes(tmp_path / 'a.npz', written)
    read = load_votes(tmp_path / 'a.npz')
    for name in ('guess', 'hits'):
        np.testing.assert_array_equal(getattr(read.votes, name), getattr(written.votes, name))
    np.testing.assert_array_equal(read.label, written.label)
    np.testing.assert_array_equal(read.base, written.base)
    assert (read.votes.n, read.votes.n0, read.meta) == (100, 10, {'name': 'image'})


def test_votes_of_an_enumeration_say_so(tmp_path):
    votes = Votes(np.array([1, 0]), np.array([3, 2]), n=3, n0=0)
    for enumerated in (False, True):
        saved = replace(votes, enumerated=enumerated)
        save_votes(tmp_path / 'a.npz', VotesRecord(saved, {}))
        assert load_votes(tmp_path / 'a.npz').votes.enumerated is enumerated
        # Files of draws are as they always were.
        assert ('enumerated' in np.load(tmp_path / 'a.npz')) is enumerated


def test_runners_up_are_kept_and_no_digest_covers_them(tmp_path):
    plain = record()
    second = {'runner_up': plain.votes.guess * 0 + 2, 'runner_up_hits': plain.votes.guess % 3}
    with_second = replace(plain, votes=replace(plain.votes, **second))
    save_votes(tmp_path / 'a.npz', with_second)
    read = load_votes(tmp_path / 'a.npz')
    for name, array in second.items():
        np.testing.assert_array_equal(getattr(read.votes, name), array)
    assert votes_digests(with_second) == votes_digests(plain) == votes_digests(read)
    # Files of votes without them are as they always were.
    save_votes(tmp_path / 'b.npz', plain)
    assert 'runner_up' not in np.load(tmp_path / 'b.npz')
    with pytest.raises(ValueError, match='go together'):
        replace(plain.votes, runner_up=second['runner_up'])


def test_labels_keep_their_sign(tmp_path):
    written = VotesRecord(record().votes, {}, label=np.full((4, 5), -1))
    save_votes(tmp_path / 'a.npz', written)
    assert (load_votes(tmp_path / 'a.npz').label == -1).all()


def test_label_and_base_are_optional(tmp_path):
    save_votes(tmp_path / 'a.npz', VotesRecord(record().votes, {}))
    read = load_votes(tmp_path / 'a.npz')
    assert read.label is None
    assert read.base is None


def test_the_same_record_gives_the_same_bytes(tmp_path):
    digests = set()
    for name in ('a.npz', 'b.npz'):
        save_votes(tmp_path / name, record())
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    save_votes(tmp_path / 'a.npz', record())
    before = (tmp_path / 'a.npz').read_bytes()
    with pytest.raises(TypeError):
        save_votes(tmp_path / 'a.npz', VotesRecord(record(1).votes, {'bad': object()}))
    assert (tmp_path / 'a.npz').read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['a.npz']


def test_files_have_ordinary_permissions(tmp_path):
    save_votes(tmp_path / 'a.npz', record())
    assert (tmp_path / 'a.npz').stat().st_mode & stat.S_IRUSR


def test_another_archive_is_not_to_be_deleted(tmp_path):
    np.savez(tmp_path / 'a.npz', something=np.zeros(3))
    with pytest.raises(VotesFileError, match=r'a\.npz is not a votes file') as refused:
        load_votes(tmp_path / 'a.npz')
    assert 'Delete' not in str(refused.value)


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty', 'text'])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, damage):
    path = tmp_path / 'a.npz'
    save_votes(path, record())
    content = path.read_bytes()
    if damage == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif damage == 'flipped':
        middle = content.index(b'hits-level0.npy') + 60
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == 'empty':
        path.write_bytes(b'')
    else:
        path.write_text('not votes')
    with pytest.raises(VotesFileError, match=r'a\.npz.*Delete this one file'):
        load_votes(path)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'hits': [101]}, 'got 101'),
        ({'hits': [1, 2]}, 'one shape'),
        ({'guess': [-1]}, 'classes >= 0, got -1'),
        ({'guess': [0.5]}, 'guess must be integers'),
        ({'n': 0}, 'n must be an integer of at least 1'),
        ({'n0': -1}, 'n0 must be'),
        ({'selection_hits': [11]}, 'got 11'),
        ({'selection_hits': [1], 'n0': 0}, 'selection_hits must be 0 without selection draws'),
        ({'selection_hits': [0.0], 'n0': 0}, 'hits must be integers'),
        ({'selection_hits': [0, 0], 'n0': 0}, 'must have one shape'),
    ],
)
def test_impossible_votes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Votes(**{'guess': [0], 'hits': [1], 'n': 100, 'n0': 10, **fields})


def test_the_store_finds_what_it_put_and_refuses_other_sampling(tmp_path):
    store = VotesStore(tmp_path, {'sigma': 0.25}, {'version': '1'})
    assert store.get('a') is None
    store.put('a', record())
    np.testing.assert_array_equal(store.get('a').votes.hits, record().votes.hits)
    other = VotesStore(tmp_path, {'sigma': 0.5}, {})
    with pytest.raises(FingerprintError, match=r'sigma: 0\.25 there, 0\.5 here.*votes_dir'):
        other.get('a')
    assert store.get('a') is not None


def test_provenance_alone_does_not_make_votes_foreign(tmp_path):
    VotesStore(tmp_path, {'sigma': 0.25}, {'version': '1'}).put('a', record())
    assert VotesStore(tmp_path, {'sigma': 0.25}, {'version': '2'}).get('a') is not None


def test_a_folder_is_read_in_order_and_must_be_of_one_run(tmp_path):
    store = VotesStore(tmp_path, {'sigma': 0.25}, {})
    for name in ('b', 'a'):
        store.put(name, record())
    assert [r.meta['name'] for r in read_folder(tmp_path)] == ['a', 'b']
    VotesStore(tmp_path, {'sigma': 0.5}, {}).put('c', record())
    with pytest.raises(FingerprintError, match=r'c\.npz'):
        list(read_folder(tmp_path))


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='no votes files'):
        list(read_folder(tmp_path))


def test_results_with_one_folder_of_votes_stand_for_it(tmp_path):
    for number in (1, 2):
        (tmp_path / f'votes-{number}').mkdir()
        with pytest.raises(FileNotFoundError, match='no votes files'):
            votes_folder(tmp_path)
    VotesStore(tmp_path / 'votes-1', {}, {}).put('a', record())
    assert votes_folder(tmp_path) == votes_folder(tmp_path / 'votes-1') == tmp_path / 'votes-1'
    assert [r.meta['name'] for r in read_folder(tmp_path)] == ['a']
    VotesStore(tmp_path / 'votes-2', {}, {}).put('a', record())
    with pytest.raises(ValueError, match=r'several folders of votes .*votes-1, .*votes-2$'):
        votes_folder(tmp_path)
    VotesStore(tmp_path / 'votes-3', {'sigma': 0.5, 'n': 7}, {}).put('a', record())
    with pytest.raises(ValueError, match=r'votes-1, .*votes-2, .*votes-3 \(n 7, sigma 0\.5\)$'):
        votes_folder(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'cannot be written.*smoothing\.votes_dir'):
        VotesStore(tmp_path / 'file' / 'votes', {}, {})


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    store = VotesStore(tmp_path, {}, {})
    store.put('a', VotesRecord(Votes(np.array([1]), np.array([2]), 3, 1), {}))
    (old := tmp_path / '.b.npz-x1.tmp').touch()
    (new := tmp_path / '.c.npz-x2.tmp').touch()
    os.utime(old, (0, 0))
    # Of a process that began before this one, perhaps on a machine whose clock differs.
    minutes_ago = new.stat().st_mtime - 1800
    os.utime(new, (minutes_ago, minutes_ago))
    VotesStore(tmp_path, {}, {})
    assert not old.exists()
    assert new.exists()
    assert store.get('a').votes.n == 3
