"""Pictures of certified segmentations."""

from mmcert.visualization.certified_visualizer import CertifiedVisualizer

__all__ = ['CertifiedVisualizer']
