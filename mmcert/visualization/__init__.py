"""Pictures of certified segmentations."""

from mmcert.visualization.certified_visualizer import CertifiedVisualizer, paint

__all__ = ['CertifiedVisualizer', 'paint']
