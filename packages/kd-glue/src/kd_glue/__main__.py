"""``python -m kd_glue``."""

from kd_glue.cli import main

if __name__ == "__main__":
    main(prog_name="kd-glue")
