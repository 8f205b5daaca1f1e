"""Registries of mmcert, children of mmengine's root registries.

mmengine imports this module by itself when a config says ``type='mmcert.Something'``, whatever
the config's default scope; the ``locations`` below are imported when something is first looked up.
"""

from mmengine import registry as root
from mmengine.registry import Registry

from mmcert.safe_loading import allow_mmengine_checkpoints

allow_mmengine_checkpoints()

HOOKS = Registry('hook', parent=root.HOOKS, scope='mmcert', locations=['mmcert.engine'])
DATASETS = Registry('dataset', parent=root.DATASETS, scope='mmcert', locations=['mmcert.datasets'])
TRANSFORMS = Registry(
    'transform', parent=root.TRANSFORMS, scope='mmcert', locations=['mmcert.datasets']
)
MODELS = Registry('model', parent=root.MODELS, scope='mmcert', locations=['mmcert.models'])
METRICS = Registry('metric', parent=root.METRICS, scope='mmcert', locations=['mmcert.evaluation'])
VISUALIZERS = Registry(
    'visualizer', parent=root.VISUALIZERS, scope='mmcert', locations=['mmcert.visualization']
)
PERTURBATIONS = Registry('perturbation', scope='mmcert', locations=['mmcert.engine.perturbations'])
DENOISERS = Registry('denoiser', scope='mmcert', locations=['mmcert.models.denoisers'])
