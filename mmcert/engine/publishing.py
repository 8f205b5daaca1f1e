"""Publishes the model of a config with the weights of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmcert.certifier import weights_digest
from mmcert.engine.base_model import build_model
from mmcert.engine.weights import load_strictly, read_checkpoint
from mmcert.zoo.publishing import ModelInfo, hub_module, publish, read_summaries, upload


def publish_model(
    cfg: Config,
    config: str,
    checkpoint: str,
    out: str,
    *,
    summaries: Sequence[str] = (),
    training_data: str | None = None,
    license: str = 'apache-2.0',
    url: str = '',
    hub: str | None = None,
) -> dict[str, Path]:
    """Writes, and uploads if asked, what ``zoo.publishing.publish`` writes, and the config.

    Args:
        cfg (Config): The model's config.
        config (str): Where it lies in the repository.
        checkpoint (str): File that training left.
        out (str): ``FOLDER/NAME.pth``; the hash is added to the name.
        summaries (Sequence[str]): Files ``summary.json`` of runs that certified this checkpoint.
        training_data (str | None): Name of the training data; None: that of the data set's class.
        license (str): Licence of the weights.
        url (str): Folder on the web where the weights will lie.
        hub (str | None): ``OWNER/NAME`` on the Hugging Face Hub to upload to.

    Returns:
        dict[str, Path]: The files, under 'weights', 'metafile', 'card' and 'config'.

    Raises:
        CheckpointMismatchError: If the checkpoint does not hold the weights of the model.
        PublishingError: If a summary is about other weights, or the Hub's client is missing.
    """
    if hub:
        hub_module()
        url = url or f'https://huggingface.co/{hub}/resolve/main'
    model, loaded = build_model(cfg), read_checkpoint(checkpoint)
    load_strictly(model, loaded, checkpoint)
    info = ModelInfo(
        name=Path(config).stem,
        config=config,
        training_data=training_data or _data_set(cfg),
        weights=weights_digest(model),
        url=url,
        license=license,
    )
    files = publish(loaded, out, info, read_summaries(summaries, info.weights))
    cfg = cfg.copy()
    cfg.load_from, cfg.resume = None, False
    files['config'] = files['weights'].with_suffix('.py')
    cfg.dump(files['config'])
    if hub:
        names = {key: file.name for key, file in files.items()}
        names['card'] = 'README.md'
        upload(hub, {names[key]: file for key, file in files.items()})
    return files


def _data_set(cfg: Config) -> str:
    """The training data by the class of its data set, inside what repeats or joins it."""
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return str(dataset.type).rpartition('.')[2].removesuffix('Dataset')
