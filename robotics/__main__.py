"""The command line: python -m robotics."""

from robotics.cli import main

if __name__ == "__main__":
    main(prog_name="python -m robotics")
