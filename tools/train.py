"""Runs ``mmcert train``, where its code is."""

import sys

from mmcert.commands.train import main

if __name__ == '__main__':
    sys.exit(main())
