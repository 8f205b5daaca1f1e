"""Packaging of mmcert, with the OpenMMLab ``.mim`` layout for its configs and tools."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent

EXTRAS = {
    'mmseg': ('mmcv', 'mmseg'),
    'mmdet3d': ('mmcv', 'mmseg', 'mmdet3d'),
    'mmpretrain': ('mmcv', 'mmseg', 'mmpretrain'),
    **{
        name: (name,)
        for name in (
            'transformers', 'smp', 'torchvision', 'onnx', 'diffusion', 'corruptions', 'hub',
            'fiftyone', 'tests', 'docs',
        )
    },
}  # fmt: skip
"""What an installation can ask for, and the files in ``requirements`` that it gets."""


def requirements(name: str) -> list[str]:
    """The requirement lines of a file in ``requirements``, its comments left out."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def version() -> str:
    """The version written in ``mmcert/version.py``."""
    text = (ROOT / 'mmcert' / 'version.py').read_text()
    return re.search(r"__version__ = '(.+)'", text)[1]


class BuildWithMim(build_py):
    """Puts configs and tools into the built package, where ``mim`` looks for them."""

    def run(self) -> None:
        """Builds the package, then copies what ``mim`` wants; an editable install links it."""
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / 'mmcert' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if editable:
                (mim / name).symlink_to(ROOT / name)
            elif name.endswith('.yml'):
                shutil.copy(ROOT / name, mim)
            else:
                ignored = shutil.ignore_patterns('__pycache__')
                shutil.copytree(ROOT / name, mim / name, ignore=ignored)


setup(
    name='mmcert',
    version=version(),
    description='Certified robustness for OpenMMLab segmentation models',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmcert', 'mmcert.*']),
    package_data={'mmcert': ['certifier/*.json', 'report/assets/*']},
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        name: [line for file in files for line in requirements(file)]
        for name, files in EXTRAS.items()
    },
    entry_points={'console_scripts': ['mmcert = mmcert.commands.main:main']},
    cmdclass={'build_py': BuildWithMim},
)
