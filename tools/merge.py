"""Runs ``mmcert merge``, where its code is."""

import sys

from mmcert.commands.merge import main

if __name__ == '__main__':
    sys.exit(main())
