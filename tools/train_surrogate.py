"""Runs ``mmcert train_surrogate``, where its code is."""

import sys

from mmcert.commands.train_surrogate import main

if __name__ == '__main__':
    sys.exit(main())
