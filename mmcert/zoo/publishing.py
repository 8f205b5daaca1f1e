"""A trained model as others can use it: bare weights, a metafile entry, and a model card."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mmcert.files import atomic_writer
from mmcert.version import __version__

KEPT_META = ('dataset_meta', 'members', 'epoch', 'iter', 'mmengine_version')
"""What the published file keeps of a checkpoint's ``meta``; the rest is about one training run."""

COLUMNS = {
    'inputs': 'inputs',
    'procedure': 'procedure',
    'tau': 'tau',
    'alpha': 'alpha',
    'draws': 'draws',
    'radius': 'radius',
    'certAcc': 'certified accuracy',
    'mIoU': 'certified mIoU',
    'abstain': 'abstain',
    'base_aAcc': 'base accuracy',
    'base_mIoU': 'base mIoU',
}
"""Columns of the table of a model card, and their headings."""


class PublishingError(ValueError):
    """A model cannot be published as it is asked."""


@dataclass(frozen=True)
class ModelInfo:
    """What there is to say of a model.

    Attributes:
        name (str): Its name in the model index, that of its config.
        config (str): Path of the config in the repository.
        training_data (str): Data set that it was trained on.
        weights (str): Digest of its parameters and buffers, as certificates have it.
        url (str): Folder on the web where the file will lie; empty if that is not known.
        collection (str): Its collection in the model index.
        license (str): Licence of the weights.
    """

    name: str
    config: str
    training_data: str
    weights: str
    url: str = ''
    collection: str = 'SegCertify'
    license: str = 'apache-2.0'


def bare_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint on the CPU, without optimiser, schedules and logs.

    Raises:
        PublishingError: If there are no weights, or one is NaN or infinite.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    state = {
        key.removeprefix('module.'): value.detach().cpu().clone()
        for key, value in weights.items()
        if isinstance(value, torch.Tensor)
    }
    if not state:
        raise PublishingError('the checkpoint holds no weights')
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise PublishingError(f'{key} has NaN or infinite values')
    meta = checkpoint.get('meta') or {}
    kept = {key: meta[key] for key in KEPT_META if key in meta}
    return {'meta': {**kept, 'mmcert_version': __version__}, 'state_dict': state}


def read_summaries(paths: Sequence[str | os.PathLike[str]], weights: str) -> list[dict[str, Any]]:
    """The ``summary.json`` of certification runs, all of the weights with this digest.

    Raises:
        PublishingError: If a file is no summary, or certifies other weights.
    """
    found = []
    for path in paths:
        try:
            summary = json.loads(Path(path).read_text())
            theirs = summary['certificate']['model']['weights']
            summary['rates']['certAcc']
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise PublishingError(f'{path} is not the summary.json of a certification') from error
        if theirs != weights:
            raise PublishingError(
                f'{path} is about other weights ({theirs}) than those that are published '
                f'({weights}): certify this checkpoint with its config first'
            )
        found.append(summary)
    return found


def publish(
    checkpoint: Mapping[str, Any],
    out: str | os.PathLike[str],
    info: ModelInfo,
    summaries: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Path]:
    """Writes the weights, a metafile entry and a model card.

    Args:
        checkpoint (Mapping): As training left it.
        out (str | os.PathLike): ``FOLDER/NAME.pth``; the files are ``FOLDER/NAME-HASH`` with
            ``.pth``, ``.yml`` and ``.md``, where HASH begins the SHA-256 of the weights file.
        info (ModelInfo): What to say of the model.
        summaries (Sequence[Mapping]): From ``read_summaries``.

    Returns:
        dict[str, Path]: The files under 'weights', 'metafile' and 'card'.

    Raises:
        PublishingError: If the checkpoint holds no finite weights.
    """
    buffer = io.BytesIO()
    torch.save(bare_weights(checkpoint), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    out = Path(out)
    stem = out.with_name(f'{out.name.removesuffix(".pth")}-{digest[:8]}')
    suffixes = {'weights': '.pth', 'metafile': '.yml', 'card': '.md'}
    files = {key: stem.with_name(stem.name + suffix) for key, suffix in suffixes.items()}
    entry = metafile_entry(info, files['weights'].name, digest, summaries)
    texts = {
        'weights': content,
        'metafile': yaml.safe_dump({'Models': [entry]}, sort_keys=False).encode(),
        'card': model_card(info, files['weights'].name, digest, summaries).encode(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for key, file in files.items():
        with atomic_writer(file) as opened:
            opened.write(texts[key])
    return files


def metafile_entry(
    info: ModelInfo, file: str, digest: str, summaries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """An entry of a ``metafile.yml``, with the certified results if there are any."""
    entry: dict[str, Any] = {
        'Name': info.name,
        'In Collection': info.collection,
        'Config': info.config,
        'Weights': f'{info.url.rstrip("/")}/{file}' if info.url else file,
        'Metadata': {'Training Data': info.training_data, 'SHA256': digest},
    }
    if summaries:
        entry['Results'] = [
            {
                'Task': 'Certified Semantic Segmentation',
                'Dataset': info.training_data,
                'Metrics': {
                    COLUMNS[key]: value for key, value in _row(summary).items() if value is not None
                },
            }
            for summary in summaries
        ]
    return entry


def model_card(
    info: ModelInfo, file: str, digest: str, summaries: Sequence[Mapping[str, Any]]
) -> str:
    """A model card in Markdown, with the head that the Hugging Face Hub reads."""
    head = yaml.safe_dump(
        {
            'license': info.license,
            'library_name': 'mmcert',
            'pipeline_tag': 'image-segmentation',
            'tags': ['certified-robustness', 'randomized-smoothing', 'openmmlab'],
        },
        sort_keys=False,
    )
    lines = [
        f'---\n{head}---',
        '',
        f'# {info.name}',
        '',
        f'Config `{info.config}`, trained on {info.training_data}.',
        f'File `{file}`, SHA-256 `{digest}`.',
        '',
        '## Certified results',
        '',
        *_results(summaries),
        '## Use',
        '',
        '```shell',
        f'mmcert test {info.config} {file}',
        '```',
    ]
    return '\n'.join(lines) + '\n'


def _results(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    if not summaries:
        return ['None: the model was not certified.', '']
    rows = [list(COLUMNS.values()), ['---'] * len(COLUMNS)]
    for summary in summaries:
        rows.append([_text(value) for value in _row(summary).values()])
    claims = dict.fromkeys(_claim(summary['certificate']) for summary in summaries)
    return [
        *(f'| {" | ".join(row)} |' for row in rows),
        '',
        *(line for claim in claims for line in (claim, '')),
        'Certified accuracy counts an abstention as wrong. "Base" is the model on clean inputs, '
        'without certification.',
        '',
    ]


def _row(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``COLUMNS``; None for what a run does not have."""
    known = {
        **summary['certificate'],
        **summary['rates'],
        'inputs': summary['images'],
        'draws': summary['draws']['mean'],
    }
    return {key: known.get(key) for key in COLUMNS}


def _claim(certificate: Mapping[str, Any]) -> str:
    """What the certificates say, and of what."""
    word = certificate.get('input_type', 'input')
    claim = certificate.get('description') or (
        f'the attack that the certificate of each {word} states changes no class that the '
        'smoothed model gives a certified component of it'
    )
    if certificate.get('kind') == 'exact':
        start = 'Verified by enumeration: '
    elif certificate.get('kind') == 'certificate':
        start = f'With probability {1 - certificate["alpha"]:g} per {word}, '
        if (certificate.get('k') or 1) > 1:
            start += f'for all but fewer than {certificate["k"]} certificates, '
    else:
        start = 'An estimate, without proof: '
    parts = [certificate['certified_space']] if 'certified_space' in certificate else []
    # What is smoothed, where that is more than one segmentor.
    if denoiser := certificate.get('denoiser'):
        parts.append(f'the smoothed function begins with the denoiser {denoiser["file"]}')
    if ensemble := certificate['model'].get('base_model'):
        parts.append(f'the base model is {ensemble}')
    where = f' ({"; ".join(parts)})' if parts else ''
    return f'{start}{claim}{where}.'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.4g}'
    return '-' if value is None else str(value)


def upload(repo: str, files: Mapping[str, str | os.PathLike[str]]) -> str:
    """Uploads files to a model repository of the Hugging Face Hub, which is made if need be.

    Who you are is known to ``huggingface_hub`` itself (``hf auth login``).

    Args:
        repo (str): ``OWNER/NAME``.
        files (Mapping): What each file is called there, and the local file.

    Returns:
        str: The address of the repository.

    Raises:
        PublishingError: If huggingface_hub is not installed.
    """
    api = hub_module().HfApi()
    address = str(api.create_repo(repo, repo_type='model', exist_ok=True))
    for name, file in files.items():
        api.upload_file(
            path_or_fileobj=os.fspath(file), path_in_repo=name, repo_id=repo, repo_type='model'
        )
    return address


def hub_module() -> Any:
    """The module ``huggingface_hub``; a ``PublishingError`` that says how to get it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise PublishingError(
            "--hub needs huggingface_hub, which is not installed: pip install 'mmcert[hub]'"
        ) from error
    return huggingface_hub
