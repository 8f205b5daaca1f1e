"""Files of weights from strangers: what they may hold, and that nothing of them runs."""

import ast
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcert import safe_loading
from mmcert.network_file import load_network
from mmcert.safe_loading import UnsafeFileError, load_weights
from tests.malice import Attack

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=['torch', 'our own'])
def reader(request, monkeypatch):
    """Both ways of reading: that of torch 2.6 and later, and that for earlier ones."""
    if request.param == 'torch' and not safe_loading._torch_is_safe():
        pytest.skip('needs torch 2.6')
    monkeypatch.setattr(safe_loading, '_torch_is_safe', lambda: request.param == 'torch')


@pytest.fixture(params=[True, False], ids=['zip', 'legacy'])
def malicious(request, tmp_path):
    """A checkpoint that is none, and the folder that it makes when it runs."""
    content = {'state_dict': {'weight': torch.ones(1)}, 'meta': Attack(tmp_path / 'made')}
    file = tmp_path / 'model.pth'
    torch.save(content, file, _use_new_zipfile_serialization=request.param)
    return file, tmp_path / 'made'


def refused(malicious, read):
    file, made = malicious
    with pytest.raises(UnsafeFileError, match=r'model.pth is refused: it names posix.mkdir'):
        read(file)
    assert not made.exists()


def test_a_checkpoint_that_would_run_something_is_refused(reader, malicious):
    refused(malicious, load_weights)
    with pytest.raises(ValueError, match='is not a denoiser'):
        load_network(malicious[0], 'denoiser')
    assert not malicious[1].exists()


def test_weights_and_plain_values_are_read(reader, tmp_path):
    state = OrderedDict(weight=torch.rand(2, 3), half=torch.ones(2).half())
    state._metadata = OrderedDict(version=2)
    parameter = torch.nn.Parameter(torch.rand(3))
    for new in (True, False):
        content = {'state_dict': state, 'optimizer': {'lr': [0.1], 'p': parameter}, 'meta': {1, 2}}
        torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=new)
        found = load_weights(tmp_path / 'a.pth')
        assert torch.equal(found['state_dict']['weight'], state['weight'])
        assert found['state_dict']._metadata == {'version': 2} and found['meta'] == {1, 2}
        assert torch.equal(found['optimizer']['p'], parameter)


def test_what_is_broken_or_a_program_is_refused(reader, tmp_path):
    file = tmp_path / 'a.pth'
    file.write_bytes(b'\x80\x02nothing')
    with pytest.raises(UnsafeFileError, match=r'a\.pth'):
        load_weights(file)
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(file))
    with pytest.raises(UnsafeFileError, match='TorchScript'):
        load_weights(file)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / 'b.pth')


def test_our_own_reader_changes_no_class(monkeypatch, tmp_path):
    """Instructions that set attributes are refused for what is no container."""

    class Change:
        def __reduce__(self):
            return getattr, (), (None, {'numel': torch.Size})

    monkeypatch.setattr(safe_loading, '_torch_is_safe', lambda: False)
    monkeypatch.setitem(safe_loading._allowed, 'builtins.getattr', lambda: torch.nn.Parameter)
    torch.save(Change(), tmp_path / 'a.pth')
    with pytest.raises(UnsafeFileError, match='is not to be used here'):
        load_weights(tmp_path / 'a.pth')
    assert callable(torch.nn.Parameter(torch.ones(2)).numel)


class TestMmengine:
    """What mmengine reads, in our commands and with the hook in the stock tools."""

    @pytest.fixture(autouse=True)
    def guarded(self, openmmlab):
        import mmcert.registry  # noqa: F401

    def test_its_own_checkpoints_are_read_with_their_history(self, reader, tmp_path):
        from mmengine.logging import HistoryBuffer
        from mmengine.runner import load_checkpoint

        history, model = HistoryBuffer(), torch.nn.Linear(1, 1, bias=False)
        history.update(1.5)
        hub = {'loss': history, 'iter': np.int64(3), 'rate': np.float64(0.5)}
        weights = {'weight': torch.ones(1, 1)}
        torch.save({'state_dict': weights, 'message_hub': hub}, tmp_path / 'a.pth')
        read = load_checkpoint(model, str(tmp_path / 'a.pth'))['message_hub']
        assert (read['loss'].current(), read['iter'], read['rate']) == (1.5, 3, 0.5)
        assert model.weight.item() == 1

    def test_nothing_of_the_history_opens_another_door(self, reader, tmp_path):
        class Attribute:
            def __reduce__(self):
                return getattr, (dict, 'update')

        torch.save({'state_dict': {}, 'bad': Attribute()}, tmp_path / 'a.pth')
        with pytest.raises(UnsafeFileError):
            load_weights(tmp_path / 'a.pth')

    def test_arrays_of_the_history_hold_numbers_alone(self, reader, tmp_path):
        """NumPy takes bytes for pointers where the pickled type says that they are objects."""
        numbers = np.arange(3.0)
        torch.save({'a': numbers, 'b': numbers > 1}, tmp_path / 'a.pth')
        found = load_weights(tmp_path / 'a.pth')
        torch.save(found, tmp_path / 'b.pth')
        again = load_weights(tmp_path / 'b.pth')
        assert again['a'].tolist() == [0, 1, 2] and again['b'].tolist() == [False, False, True]
        assert b'mmcert' not in (tmp_path / 'b.pth').read_bytes()
        rebuild, first, (version, shape, kind, order, _) = np.zeros(1, 'i8').__reduce__()

        def array_of(kind):
            class Pointers:
                def __reduce__(self):
                    return rebuild, first, (version, shape, kind, order, b'A' * 8)

            return Pointers()

        class FlaggedNumber:
            def __reduce__(self):
                return np.dtype, ('f8', False, True), (3, '<', None, None, None, -1, -1, 1)

        for kind in (np.dtype([('a', 'O')]), np.dtype('O'), FlaggedNumber()):
            torch.save({'state_dict': {}, 'bad': array_of(kind)}, tmp_path / 'a.pth')
            with pytest.raises(UnsafeFileError):
                load_weights(tmp_path / 'a.pth')

    def test_local_files_are_refused(self, reader, malicious):
        from mmengine.runner import load_checkpoint

        refused(malicious, lambda file: load_checkpoint(torch.nn.Linear(1, 1), str(file)))

    def test_downloaded_files_are_refused(self, reader, malicious, monkeypatch, tmp_path):
        from mmengine.runner import CheckpointLoader

        monkeypatch.setenv('TORCH_HOME', str(tmp_path))
        monkeypatch.setattr(torch.hub, '_hub_dir', None)
        cache = tmp_path / 'hub' / 'checkpoints'
        cache.mkdir(parents=True)
        malicious[0].rename(cache / 'model.pth')
        read = CheckpointLoader.load_checkpoint
        refused(malicious, lambda file: read('https://example.org/model.pth', logger='silent'))

    def test_a_fork_that_falls_back_to_everything_is_refused(self, malicious, monkeypatch):
        from mmengine.runner import CheckpointLoader

        def careless(filename, map_location):
            return torch.load(filename, map_location=map_location, weights_only=False)

        monkeypatch.setitem(CheckpointLoader._schemes, '', careless)
        refused(malicious, lambda file: CheckpointLoader.load_checkpoint(str(file)))


def test_nothing_else_unpickles():
    """Every reader of pickles in the package and the tools is one of those tested here."""
    for path in [*(ROOT / 'mmcert').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        if path.name == 'safe_loading.py':
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            message = f'{path.relative_to(ROOT)}:{node.lineno} calls {called}'
            assert called not in ('torch.load', 'torch.jit.load', 'eval', 'exec'), message
            assert not called.startswith(('pickle.', 'yaml.load', 'yaml.unsafe')), message
            if called == 'np.load':
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get('allow_pickle') == 'False', message
