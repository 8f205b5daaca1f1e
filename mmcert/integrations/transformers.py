"""Semantic segmentation by models of Hugging Face transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmcert.integrations.image_model import ModuleModel, scores_of
from mmcert.integrations.preprocessing import Preprocessing
from mmcert.safe_loading import only_weights

VOLATILE = ('transformers_version', '_name_or_path', 'torch_dtype', 'dtype', 'architectures')
"""Entries of a config that do not change what a model computes."""

TASKS = ('ForSemanticSegmentation', 'ForUniversalSegmentation', 'ForInstanceSegmentation')
"""Endings of the classes that can label pixels."""


class TransformersModel(ModuleModel):
    """A model of transformers.

    Models that return ``logits`` (SegFormer, UperNet, DPT, BEiT and others) are smoothed through
    them: mmcert reads the labels from the logits as the library's own post-processing does. Models
    that return queries and masks (Mask2Former, MaskFormer, OneFormer) are smoothed through the
    labels of that post-processing, semantic segmentation; their instances are not certified.

    Args:
        module (torch.nn.Module): A ``PreTrainedModel``; it is put into ``eval`` mode.
        preprocessing (Preprocessing): What happens to an image before.
        processor (Any): The model's processor. Models of masks need it.

    Raises:
        ValueError: If a model of masks comes without its processor.
    """

    library = 'transformers'

    def __init__(
        self, module: torch.nn.Module, preprocessing: Preprocessing, processor: Any = None
    ) -> None:
        super().__init__(module, preprocessing)
        self.processor = processor
        self.config: Any = module.config
        self.of_masks = not type(module).__name__.endswith('ForSemanticSegmentation')
        if self.of_masks and not hasattr(processor, 'post_process_semantic_segmentation'):
            raise ValueError(
                f'{self.name} returns masks: give its processor, which makes label maps of them'
            )
        self._task: torch.Tensor | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the config, unless they are only numbered."""
        names = dict(self.config.id2label or {})
        found = [str(names[key]) for key in sorted(names, key=int)]
        return [] if all(name.startswith('LABEL_') for name in found) else found

    @property
    def has_gradient(self) -> bool:
        """Label maps, which are made of masks, have none."""
        return not self.of_masks

    @property
    def reduces_labels(self) -> bool:
        """Whether 0 in a label map means "no class", as the processor says."""
        image_processor = getattr(self.processor, 'image_processor', self.processor)
        return bool(getattr(image_processor, 'do_reduce_labels', False))

    def structure(self) -> str:
        """The config, without what changes no output, and the modules it was built of."""
        config = json.loads(self.config.to_json_string(use_diff=False))
        config = {key: value for key, value in config.items() if key not in VOLATILE}
        return f'{self.name} {json.dumps(config, sort_keys=True)}\n{self.module!r}'

    def num_classes(self, image: torch.Tensor) -> int | None:
        """Number of classes."""
        found = super().num_classes(image)
        return int(self.config.num_labels) if found is None else found

    def output(self, inputs: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The logits, or the label maps at the image's own size."""
        inputs = inputs.to(self._dtype)
        if not self.of_masks:
            return scores_of(self.module(pixel_values=inputs))
        found = self.module(pixel_values=inputs, **self._further(len(inputs)))
        labels = self.processor.post_process_semantic_segmentation(
            found, target_sizes=[size] * len(inputs)
        )
        return torch.stack(list(labels))

    def _further(self, batch: int) -> dict[str, torch.Tensor]:
        """What OneFormer is asked: it wants its task in words."""
        if not hasattr(self.config, 'task_seq_len'):
            return {}
        if self._task is None:
            asked = self.processor.tokenizer(
                ['the task is semantic'],
                padding='max_length',
                max_length=self.processor.task_seq_length,
                truncation=True,
                return_tensors='pt',
            )
            self._task = (asked['attention_mask'] * asked['input_ids']).to(self.device)
        return {'task_inputs': self._task.expand(batch, -1)}


def is_of_transformers(model: Any) -> bool:
    """Whether a model is one of transformers; does not import it."""
    return any(
        base.__name__ == 'PreTrainedModel' and base.__module__.startswith('transformers.')
        for base in type(model).__mro__
    )


def load(
    path: str | os.PathLike[str],
    preprocessing: Preprocessing | None = None,
    size: tuple[int, int] | None = None,
) -> TransformersModel:
    """Loads a model that ``save_pretrained`` has written, with its processor.

    Args:
        path (str | os.PathLike): The folder.
        preprocessing (Preprocessing | None): In place of what the processor says.
        size (tuple[int, int] | None): In place of its resizing and cropping alone.

    Raises:
        FileNotFoundError: If there is no such folder or no config in it.
        ValueError: If it is no model for semantic segmentation, or lacks weights or a processor.
    """
    folder = Path(path)
    if not (folder / 'config.json').is_file():
        what = f'no config.json in {folder}' if folder.is_dir() else f'no folder {folder}'
        raise FileNotFoundError(
            f'there is {what}: give the folder that save_pretrained wrote; models of the hub are '
            'fetched by `hf download NAME --local-dir FOLDER`'
        )
    name = _architecture(folder)
    import transformers

    cls = getattr(transformers, name, None)
    if cls is None or not name.endswith(TASKS):
        raise ValueError(f'{folder} holds a {name}, which is no model for semantic segmentation')
    try:
        with only_weights():
            model, report = cls.from_pretrained(
                folder,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        raise ValueError(f'cannot load {folder}: {_line(error)}') from error
    require_complete(report, folder)
    try:
        processor = _processor(transformers, folder, name)
    except Exception as error:
        if preprocessing is None or not name.endswith('ForSemanticSegmentation'):
            raise ValueError(
                f'{folder} has no processor that can be loaded ({_line(error)}): give mean, std '
                'and size'
            ) from error
        processor = None
    if preprocessing is None:
        if size is not None:
            image_processor = getattr(processor, 'image_processor', processor)
            for step in ('do_resize', 'do_center_crop', 'do_pad'):
                setattr(image_processor, step, False)
        preprocessing = Preprocessing.of(processor)
        preprocessing = preprocessing if size is None else replace(preprocessing, size=size)
    return TransformersModel(model, preprocessing, processor)


def require_complete(report: Mapping[str, Any], folder: Path) -> None:
    """Refuses a model of which weights are missing: the library fills them at random.

    Raises:
        ValueError: If there are such weights.
    """
    missing = sorted(map(str, report.get('missing_keys') or ()))
    missing += sorted(str(entry[0]) for entry in report.get('mismatched_keys') or ())
    if missing:
        raise ValueError(
            f'{folder} lacks weights or has others of another shape, {len(missing)} in all, for '
            f'example {missing[0]}: they would be random'
        )


def _architecture(folder: Path) -> str:
    try:
        config = json.loads((folder / 'config.json').read_text())
        names: Sequence[str] = config.get('architectures') or ()
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{folder / "config.json"} is no config of transformers') from error
    if not names:
        raise ValueError(f'{folder / "config.json"} names no architecture')
    return str(names[0])


def _processor(transformers: Any, folder: Path, name: str) -> Any:
    auto = transformers.AutoProcessor if 'OneFormer' in name else transformers.AutoImageProcessor
    # Without the last word the library asks whether it may run code that comes with the model.
    return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _line(error: Exception) -> str:
    """The first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
