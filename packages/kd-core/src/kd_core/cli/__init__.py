"""The commands that every task package has. Only click is imported before a command runs."""

from kd_core.cli.interrupt import end_imports_on_interrupt

end_imports_on_interrupt()  # before the imports below, in a process that is a command

# ruff: noqa: E402
from kd_core.cli.group import Commands, make_cli
from kd_core.cli.options import config_argument, config_options, json_option, run_argument, set_option, trust_option
from kd_core.cli.output import print_result, quiet_stdout, table

__all__ = [
    "Commands",
    "config_argument",
    "config_options",
    "json_option",
    "make_cli",
    "print_result",
    "quiet_stdout",
    "run_argument",
    "set_option",
    "table",
    "trust_option",
]
