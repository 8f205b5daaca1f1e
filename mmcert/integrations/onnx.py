"""Segmentors that ONNX Runtime computes."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.certifier.segmentor import MANY
from mmcert.integrations.image_model import ImageModel
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.sampling import LogitMaps
from mmcert.sampling.logit_maps import eager_labels

NUMBERS = {
    'tensor(float)': np.float32,
    'tensor(float16)': np.float16,
    'tensor(double)': np.float64,
}
"""Types that the input of a session may have."""

PART = 2**24
"""Bytes of a file of weights that are looked at at once."""


class OnnxModel(ImageModel):
    """A session of ONNX Runtime that takes images (B, 3, h, w) and returns scores or labels first.

    Where the model has a fixed height and width, images are resized to it; where it has a fixed
    batch, it gets as many images at once. The certificate names the runtime and what computes.

    Args:
        session (onnxruntime.InferenceSession): The session.
        preprocessing (Preprocessing): What happens to an image before.
        weights (str | None): Digest of the model; by default that of the file of the session.
        threshold (float): See ``ImageModel``.

    Raises:
        ValueError: If the input is no batch of RGB images, or the file of the session is not known.
    """

    library = 'onnxruntime'

    def __init__(
        self,
        session: Any,
        preprocessing: Preprocessing,
        weights: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        inputs = session.get_inputs()
        shape = list(inputs[0].shape)
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in NUMBERS or shape[1] != 3:
            described = ', '.join(f'{one.type} {one.shape}' for one in inputs)
            raise ValueError(f'an ONNX model must take RGB images (B, 3, H, W), not {described}')
        fixed = [side for side in shape[2:] if isinstance(side, int)]
        if len(fixed) == 2 and preprocessing.size is None:
            preprocessing = replace(preprocessing, size=(fixed[0], fixed[1]))
        super().__init__(preprocessing, threshold)
        self.session, self._input, self._kind = session, inputs[0].name, NUMBERS[inputs[0].type]
        self._batch = shape[0] if isinstance(shape[0], int) else None
        self._output = session.get_outputs()[0].name
        path = getattr(session, '_model_path', None)
        if weights is None and not path:
            raise ValueError('this session does not tell its file: give weights, a digest of it')
        self._weights = weights or file_digest(str(path))
        # Of a session that was opened elsewhere it is not known whether it still is that file.
        self._unproven = path if weights is None else None
        self._name = Path(str(path)).name if path else 'ONNX model'

    @property
    def device(self) -> torch.device:
        """Images are handed over on the CPU."""
        return torch.device('cpu')

    @property
    def has_gradient(self) -> bool:
        """ONNX Runtime computes none."""
        return False

    @property
    def name(self) -> str:
        """Name of the file."""
        return self._name

    def weights(self) -> str:
        """Digest of the file and of what it refers to."""
        return self._weights

    def num_classes(self, image: torch.Tensor) -> int | None:
        """See ``ImageModel``; the session must compute what its file does.

        Raises:
            ValueError: If it does not.
        """
        found = super().num_classes(image)
        if self._unproven:
            ours, session = labels_of(self([image])), self.session
            try:
                self.session = _opened_again(self._unproven, session)
                theirs = labels_of(self([image]))
            finally:
                self.session = session
            if (ours != theirs).float().mean() > MANY:
                raise ValueError(
                    f'the session computes something else than its file {self._unproven}, which '
                    'was written anew since or has other weights in the session: open it again, '
                    'or give OnnxModel a digest of the weights'
                )
            self._unproven = None
        return found

    def structure(self) -> str:
        """The output that is read; the graph is in the digest of the weights."""
        return self._output

    def arithmetic(self) -> dict[str, Any]:
        """The runtime, and what computes in it."""
        import onnxruntime

        return {
            'precision': np.dtype(self._kind).name,
            'device': 'cpu',
            'runtime': f'onnxruntime {onnxruntime.__version__}',
            'providers': list(self.session.get_providers()),
        }

    def output(self, inputs: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The first output of the session."""
        batch = inputs.numpy().astype(self._kind)
        parts = [self._run(part) for part in self._split(batch)]
        found = torch.from_numpy(np.concatenate(parts))
        # Labels may come with an axis for one channel.
        if not found.is_floating_point() and found.dim() == 4 and found.shape[1] == 1:
            found = found[:, 0]
        return found

    def _split(self, batch: NDArray[Any]) -> Sequence[NDArray[Any]]:
        if self._batch is None:
            return [batch]
        return [batch[start : start + self._batch] for start in range(0, len(batch), self._batch)]

    def _run(self, part: NDArray[Any]) -> NDArray[Any]:
        count = len(part)
        if self._batch is not None and count < self._batch:
            part = np.concatenate([part, part[-1:].repeat(self._batch - count, axis=0)])
        return self.session.run([self._output], {self._input: part})[0][:count]


def _opened_again(path: str, session: Any) -> Any:
    """Another session of the file of a session, without its options."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(path, providers=session.get_providers())
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'{path} cannot be opened again without the options of its session, to see whether it '
            f'still is what the session computes: {line}. Give OnnxModel a digest of the weights'
        ) from error


def labels_of(found: LogitMaps | torch.Tensor) -> torch.Tensor:
    """The label maps in what a model returns."""
    return eager_labels(found) if isinstance(found, LogitMaps) else found


def is_session(model: Any) -> bool:
    """Whether an object is a session of ONNX Runtime; does not import it."""
    return all(hasattr(model, name) for name in ('get_inputs', 'get_outputs', 'get_providers'))


def load(path: str | os.PathLike[str], preprocessing: Preprocessing) -> OnnxModel:
    """Opens a file with ONNX Runtime on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no ONNX model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no file {path}')
    # Before the runtime reads what the file refers to.
    weights = file_digest(path)
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f'{path} is no model for ONNX Runtime: {line}') from error
    return OnnxModel(session, preprocessing, weights)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Digest of an ONNX file and of the files in which it keeps weights, 16 hexadecimal digits.

    Raises:
        ValueError: If it is no ONNX model, a weight is NaN or infinite, or weights are in a file
            that is outside of the model's folder, missing or too short.
    """
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(path)
    data = path.read_bytes()
    digest = hashlib.blake2b(data, digest_size=8)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ValueError(f'{path} is no model for ONNX Runtime: {error}') from error
    del data
    tensors = list(_tensors(model))
    for name in sorted({_outside(tensor)['location'] for tensor in tensors if _outside(tensor)}):
        # Where one file ends and the next one begins matters.
        digest.update(f'{name} {_beside(path, name).stat().st_size} '.encode())
        with _beside(path, name).open('rb') as file:
            while part := file.read(PART):
                digest.update(part)
    for tensor in tensors:
        if not all(np.isfinite(part).all() for part in _floats(path, tensor)):
            raise ValueError(
                f'the weights {tensor.name} of {path} have NaN or infinite values: the file is '
                'damaged'
            )
    return digest.hexdigest()


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a model: weights, constants, and those of graphs in it."""
    if message.DESCRIPTOR.name == 'TensorProto':
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in [value] if hasattr(value, 'ListFields') else value:
                yield from _tensors(one)


def _outside(tensor: Any) -> dict[str, str]:
    """Where the values of a tensor are, if they are in another file."""
    from onnx.external_data_helper import uses_external_data

    if not uses_external_data(tensor):
        return {}
    return {'location': '', **{entry.key: entry.value for entry in tensor.external_data}}


def _beside(path: Path, name: str) -> Path:
    """A file that a model refers to."""
    place = Path(os.path.normpath(name))
    if place.is_absolute() or os.pardir in place.parts:
        raise ValueError(
            f'{path} has weights in {name!r}, outside of its own folder: such a file is not read; '
            'move it beside the model, and save the model so'
        )
    found = path.parent / place
    if not found.is_file():
        raise ValueError(f'{path} has weights in {name!r}, but there is no file {found}')
    return found


def _floats(path: Path, tensor: Any) -> Iterator[NDArray[Any]]:
    """The values of a tensor of floating point numbers, in parts."""
    from onnx import helper, numpy_helper

    if not (outside := _outside(tensor)):
        if (values := numpy_helper.to_array(tensor)).dtype.kind == 'f':
            yield values
        return
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if kind.kind != 'f' or 0 in tensor.dims:
        return
    file, start = _beside(path, outside['location']), int(outside.get('offset', 0))
    count = math.prod(tensor.dims)
    if start + count * kind.itemsize > file.stat().st_size:
        raise ValueError(f'{file} is too short for the weights {tensor.name} of {path}')
    mapped = np.memmap(file, dtype=np.uint8, mode='r', offset=start, shape=count * kind.itemsize)
    for first in range(0, len(mapped), PART):
        yield mapped[first : first + PART].view(kind)
