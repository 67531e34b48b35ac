"""The command ``python -m metajax.results compare ...``: stored records side by side."""

from metajax.results import compare

if __name__ == "__main__":
    compare.cli()
