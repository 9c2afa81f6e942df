#!/usr/bin/env python
"""NOVAWF's command line: everything an operator does is a command here."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "novawf_site.settings")
    if sys.argv[1:] == ["up"]:  # it lives long, and is half as large without models and applications
        from workflow.hosting import keeper

        sys.exit(keeper.main())
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
