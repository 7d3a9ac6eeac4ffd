"""The command line: one module a command, imported only when that command runs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO, Any

import click

from statsnorm import __version__
from statsnorm.errors import StatsnormError, unknown
from statsnorm.stopping import terminate_like_interrupt

COMMANDS: dict[str, str] = {
    "demo": "The main job on embedded images and networks, in minutes.",
    "extract": "Images through networks into tables of channel moments.",
    "train": "Train texture networks, log the style-loss curves.",
    "report": "Tables into a report with a verdict for each claim.",
    "compare": "The same numbers of several networks side by side.",
    "verify": "Rebuild a report and say which byte differs.",
    "taps": "The taps of a network: names, kinds, channels, sizes.",
    "info": "What a run holds, and what it misses.",
    "fetch": "Download photographs or weights by name.",
}


class OneLineUsageError(click.UsageError):
    """A usage error that shows itself as one line, like every other error of ours."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Write what is wrong and where the help is."""
        where = self.ctx.command_path if self.ctx else "statsnorm"
        message = " ".join(self.format_message().split()).rstrip(".")
        click.echo(f"{where}: {message}; see {where} --help", file=file, err=True)


@contextmanager
def _usage_on_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            raise  # its message is the help
        raise OneLineUsageError(error.format_message(), error.ctx) from error


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the command names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import and return the command called `name`, or None."""
        if name not in COMMANDS:
            return None
        command = getattr(import_module(f"statsnorm.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is asked for; name the nearest where there is none."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(str(unknown("command", args[0], COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options that stand before the command."""
        with _usage_on_one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a user can mend becomes one line and exit status 2."""
        try:
            with _usage_on_one_line(), terminate_like_interrupt():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            self._refuse(
                ctx,
                "stopped; finished shards and cells are kept, nothing half-written was left: give "
                "the same command again",
            )
        except StatsnormError as error:
            self._refuse(ctx, str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:  # `statsnorm info RUN | head`: click knows what to do
                raise
            reason = error.strerror or str(error)
            self._refuse(ctx, f"{error.filename}: {reason}" if error.filename else reason)

    @staticmethod
    def _refuse(ctx: click.Context, message: str) -> None:
        shown = " ".join(message.splitlines()).encode(errors="backslashreplace").decode()
        click.echo(f"statsnorm: {shown}", err=True)
        ctx.exit(2)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from statsnorm.cli.version import version_text  # imports torch: only when asked

    click.echo(version_text())
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version, the device and the library versions.",
)
def main() -> None:
    """Measure whether instance normalisation removes style or contrast.

    \b
        statsnorm demo                      # everything below, on embedded photographs
        statsnorm extract --images photos/ --network vgg16 --out runs/vgg
        statsnorm report runs/vgg --out reports/vgg
    """
    # A closed pipe (`statsnorm info RUN | head`) is not an error of ours.
    sys.stdout.flush()


__all__ = ["COMMANDS", "__version__", "main"]
