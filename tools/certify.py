"""Runs ``mmcert recertify``, where its code is."""

import sys

from mmcert.commands.recertify import main

if __name__ == '__main__':
    sys.exit(main())
