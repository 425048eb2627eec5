"""A command group that imports a command's module when the command is used, so that help and completion need none of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem


class Lazy(NamedTuple):
    """Where a command is: module, its name in there, and the one line that help shows for it."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group of commands that are imported on use. Commands added in the usual way work beside them."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, Lazy], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order in which they are listed."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None if there is none."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        place = self.lazy[cmd_name]
        command: click.Command = getattr(importlib.import_module(place.module), place.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands with their summaries, importing none that is lazy."""
        rows = [(name, self._summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completions of a command's name, importing none that is lazy, and of this group's options."""
        names = [CompletionItem(n, help=self._summary(ctx, n)) for n in self.list_commands(ctx) if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(100)
