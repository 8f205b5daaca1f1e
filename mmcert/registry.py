"""Registries of mmcert, children of mmengine's root registries.

mmengine imports this module by itself when a config says ``type='mmcert.Something'``, whatever
the config's default scope; the ``locations`` below are imported when something is first looked up.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry

from mmcert.compat import allow_mmengine_checkpoints

allow_mmengine_checkpoints()

HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmcert', locations=['mmcert.engine'])
DATASETS = Registry(
    'dataset', parent=MMENGINE_DATASETS, scope='mmcert', locations=['mmcert.datasets']
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='mmcert',
    locations=['mmcert.datasets.transforms'],
)
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmcert', locations=['mmcert.models'])
METRICS = Registry(
    'metric', parent=MMENGINE_METRICS, scope='mmcert', locations=['mmcert.evaluation']
)
VISUALIZERS = Registry(
    'visualizer',
    parent=MMENGINE_VISUALIZERS,
    scope='mmcert',
    locations=['mmcert.visualization'],
)
PERTURBATIONS = Registry('perturbation', scope='mmcert', locations=['mmcert.engine.perturbations'])
