"""Models that ONNX Runtime computes."""

import shutil

import numpy as np
import pytest
import torch

import mmcert
from mmcert.integrations.onnx import file_digest, load
from mmcert.integrations.preprocessing import Preprocessing

onnx = pytest.importorskip('onnx', reason='needs onnx, see requirements/onnx.txt')
onnxruntime = pytest.importorskip('onnxruntime', reason='needs onnxruntime')

SETTINGS = {'sigma': 0.2, 'tau': 0.6, 'n0': 4, 'n': 30, 'alpha': 0.05}
PREPROCESSING = Preprocessing([0.4, 0.5, 0.6], [0.25])


@pytest.fixture(scope='module')
def conv():
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 4, 3, padding=1)


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def write(path, conv, shape=('B', 3, 'H', 'W'), argmax=False, **saving):
    """A convolution as an ONNX file."""
    weights = {
        name: onnx.numpy_helper.from_array(value.detach().numpy(), name)
        for name, value in conv.named_parameters()
    }
    nodes = [
        onnx.helper.make_node('Conv', ['image', *weights], ['scores'], pads=[1, 1, 1, 1]),
        onnx.helper.make_node('ArgMax', ['scores'], ['labels'], axis=1),
    ]
    kind, name = (
        (onnx.TensorProto.INT64, 'labels') if argmax else (onnx.TensorProto.FLOAT, 'scores')
    )
    graph = onnx.helper.make_graph(
        nodes if argmax else nodes[:1],
        'segmentor',
        [onnx.helper.make_tensor_value_info('image', onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info(name, kind, None)],
        list(weights.values()),
    )
    opset = [onnx.helper.make_opsetid('', 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), str(path), **saving)
    return path


def test_votes_are_those_of_torch_and_the_certificate_names_the_runtime(conv, image, tmp_path):
    model = load(write(tmp_path / 'model.onnx', conv), PREPROCESSING)
    result = mmcert.smooth(model, **SETTINGS).certify(image)
    expected = mmcert.smooth(conv, preprocessing=PREPROCESSING, **SETTINGS).votes(image)
    # Another runtime may round otherwise.
    assert (result.votes.hits != expected.hits).mean() < 0.02
    precision = result.to_dict()['model']['precision']
    assert precision['runtime'] == f'onnxruntime {onnxruntime.__version__}'
    assert precision['providers'] == ['CPUExecutionProvider']
    assert result.to_dict()['model']['base']['architecture'] == 'model.onnx'


def test_fixed_batches_and_sizes_and_labels_are_served(conv, image, tmp_path):
    session = onnxruntime.InferenceSession(
        str(write(tmp_path / 'fixed.onnx', conv, (4, 3, 9, 12), argmax=True)),
        providers=['CPUExecutionProvider'],
    )
    smoothed = mmcert.smooth(session, preprocessing=PREPROCESSING, classes=4, **SETTINGS)
    free = load(write(tmp_path / 'free.onnx', conv), PREPROCESSING)
    assert (smoothed.votes(image).hits == mmcert.smooth(free, **SETTINGS).votes(image).hits).all()
    assert smoothed.model.preprocessing.size == (9, 12)
    assert smoothed.certify(image[:6]).maps['cert'].shape == (6, 12)


def test_a_session_of_an_earlier_file_is_refused(conv, image, tmp_path):
    path = write(tmp_path / 'model.onnx', conv)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    mmcert.smooth(session, preprocessing=PREPROCESSING, **SETTINGS).start(image)
    torch.manual_seed(1)
    write(path, torch.nn.Conv2d(3, 4, 3, padding=1))
    with pytest.raises(ValueError, match='session computes something else than its file'):
        mmcert.smooth(session, preprocessing=PREPROCESSING, **SETTINGS).certify(image)


def test_a_session_that_cannot_be_opened_again_is_refused_in_a_line(conv, image, tmp_path):
    session = onnxruntime.InferenceSession(
        str(write(tmp_path / 'model.onnx', conv)), providers=['CPUExecutionProvider']
    )
    smoothed = mmcert.smooth(session, preprocessing=PREPROCESSING, **SETTINGS)
    (tmp_path / 'model.onnx').unlink()
    with pytest.raises(ValueError, match='cannot be opened again .* a digest of the weights'):
        smoothed.start(image)


def test_the_digest_covers_weights_in_other_files(conv, tmp_path):
    whole = file_digest(write(tmp_path / 'a.onnx', conv))
    outside = {'save_as_external_data': True, 'location': 'b.data', 'size_threshold': 0}
    path = write(tmp_path / 'b.onnx', conv, **outside)
    first = file_digest(path)
    data = np.fromfile(tmp_path / 'b.data', dtype=np.float32)
    (data + 1).tofile(tmp_path / 'b.data')
    assert len({whole, first, file_digest(path)}) == 3
    (data * np.nan).tofile(tmp_path / 'b.data')
    with pytest.raises(ValueError, match='NaN or infinite'):
        file_digest(path)
    data[:-1].tofile(tmp_path / 'b.data')
    with pytest.raises(ValueError, match=r'b\.data is too short for the weights'):
        file_digest(path)


def test_the_digest_covers_constants_and_branches_in_other_files(tmp_path):
    """Weights need not be initializers."""
    values = np.arange(4, dtype=np.float32)
    values.tofile(tmp_path / 'c.data')
    tensor = onnx.numpy_helper.from_array(values, 'scale')
    onnx.external_data_helper.set_external_data(tensor, location='c.data')
    tensor.ClearField('raw_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    constant = onnx.helper.make_node('Constant', [], ['scaled'], value=tensor)
    branch = onnx.helper.make_graph([constant], 'branch', [], [])
    node = onnx.helper.make_node('If', ['yes'], ['out'], then_branch=branch, else_branch=branch)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], 'model', [], []))
    (tmp_path / 'c.onnx').write_bytes(model.SerializeToString())
    first = file_digest(tmp_path / 'c.onnx')
    (values + 1).tofile(tmp_path / 'c.data')
    assert file_digest(tmp_path / 'c.onnx') != first


@pytest.mark.parametrize(
    ('location', 'said'),
    [('../b.data', 'outside of its own folder'), ('/dev/zero', 'outside of its own folder'),
     ('none.data', 'but there is no file')],
)  # fmt: skip
def test_weights_outside_of_the_folder_are_refused(conv, tmp_path, location, said):
    (tmp_path / 'in').mkdir()
    outside = {'save_as_external_data': True, 'location': 'b.data', 'size_threshold': 0}
    path = write(tmp_path / 'in/b.onnx', conv, **outside)
    shutil.copy(tmp_path / 'in/b.data', tmp_path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=said):
        load(path, PREPROCESSING)


def test_what_is_no_segmentor_of_images_is_refused(conv, tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file'):
        load(tmp_path / 'none.onnx', PREPROCESSING)
    (tmp_path / 'text.onnx').write_text('no model')
    with pytest.raises(ValueError, match='is no model for ONNX Runtime') as refused:
        load(tmp_path / 'text.onnx', PREPROCESSING)
    assert '\n' not in str(refused.value)
    grey = torch.nn.Conv2d(1, 4, 3, padding=1)
    with pytest.raises(ValueError, match='must take RGB images'):
        load(write(tmp_path / 'grey.onnx', grey, ('B', 1, 'H', 'W')), PREPROCESSING)
