"""Packaging of mmcert."""

from setuptools import find_packages, setup
setup(name='mmcert', version='0.1.0', packages=find_packages(include=['mmcert*']))
