"""Segmentors that ONNX Runtime computes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcert.integrations.image_model import ImageModel
from mmcert.integrations.preprocessing import Preprocessing

NUMBERS = {
    'tensor(float)': np.float32,
    'tensor(float16)': np.float16,
    'tensor(double)': np.float64,
}
"""Types that the input of a session may have."""


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
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f'{path} is no model for ONNX Runtime: {line}') from error
    return OnnxModel(session, preprocessing)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Digest of an ONNX file and of the files in which it keeps weights, 16 hexadecimal digits.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    import onnx
    from onnx import external_data_helper, numpy_helper

    path = Path(path)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8)
    model = onnx.load(str(path), load_external_data=False)
    outside: set[str] = set()
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor):
            outside |= {entry.value for entry in tensor.external_data if entry.key == 'location'}
    for name in sorted(outside):
        digest.update((path.parent / name).read_bytes())
    onnx.load_external_data_for_model(model, str(path.parent))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == 'f' and not np.isfinite(values).all():
            raise ValueError(
                f'the weights {tensor.name} of {path} have NaN or infinite values: the file is '
                'damaged'
            )
    return digest.hexdigest()
