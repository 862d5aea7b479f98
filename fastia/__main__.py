"""`python -m fastia`: the command line."""

from fastia.cli import main

if __name__ == "__main__":
    main()
