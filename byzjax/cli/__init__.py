"""The command line. One file per command: parse, call, print."""

from byzjax.cli.app import main as main
