"""Entry point of `python -m bridge`, the same as the command `bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main()
