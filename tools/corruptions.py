"""Runs ``mmcert corruptions``, where its code is."""

import sys

from mmcert.commands.corruptions import main

if __name__ == '__main__':
    sys.exit(main())
