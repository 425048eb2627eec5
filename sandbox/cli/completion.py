"""`sandbox completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete `sandbox`.

    \b
    Example: eval "$(sandbox completion bash)"      # in ~/.bashrc; for zsh the same with zsh in ~/.zshrc
    Example: sandbox completion fish > ~/.config/fish/completions/sandbox.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "the choices are the shells that click knows"
    click.echo(kind(context.find_root().command, {}, "sandbox", "_SANDBOX_COMPLETE").source())
