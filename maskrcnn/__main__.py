"""`python -m maskrcnn` is `maskrcnn`."""

from maskrcnn.cli.main import main

if __name__ == "__main__":  # a worker that is spawned imports this file too
    main()
