"""``python -m metajax.data.logs LOG``, a short name of ``python -m metajax.data describe LOG``."""

import sys

from metajax.data.__main__ import main

if __name__ == "__main__":
    main(["describe", *sys.argv[1:]])
