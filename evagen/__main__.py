"""`evagen COMMAND …`, `python -m evagen COMMAND …`, `accelerate launch -m evagen COMMAND …`: one and the same."""

from evagen.cli import main

if __name__ == "__main__":
    main()
