"""The command ``python -m metajax.data.logs LOG``: what is understood of a file."""

from metajax.data.logs import command

if __name__ == "__main__":
    command.main()
