"""Point operators on the CPU for the stock point-cloud models of mmdetection3d."""

from mmcert.pointops.install import install_cpu_point_ops, needs_cuda

__all__ = ['install_cpu_point_ops', 'needs_cuda']
