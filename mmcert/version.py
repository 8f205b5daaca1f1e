"""Version of mmcert, and of what it runs on."""

from collections.abc import Iterable

__version__ = '0.1.0'


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of mmcert, Python and those of the packages that are installed."""
    # Here: ``import mmcert`` is to take no time.
    import platform
    from importlib import metadata

    found = {'mmcert': __version__, 'python': platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
