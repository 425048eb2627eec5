"""`sandbox party contribute` and `sandbox party hold-key`: a participant's part in joint totals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policies.errors import Malformed
from sandbox.cli.show import home_option, json_option, print_json, progress_bar
from sandbox.cli.stopping import until_stopped

if TYPE_CHECKING:
    from sandbox.party.joint import JointPart
    from sandbox.party.joint_client import JointClient

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_once = click.option("--once", is_flag=True, help="Do what waits now and end, instead of going on until stopped.")


@click.command("contribute")
@home_option
@click.option("--declaration", "declarations", type=_FILE, multiple=True, required=True, help="YAML form of a dataset; repeat for several.")
@click.argument("files", type=_FILE, nargs=-1, required=True)
@_once
@json_option
def contribute(home_folder: Path, declarations: tuple[Path, ...], files: tuple[Path, ...], once: bool, as_json: bool) -> None:
    """Contribute to joint totals: bounded, masked and encrypted totals of FILES, one per declaration. Rows never leave this machine.

    \b
    Example: sandbox party contribute --home ~/insurer --declaration claims.yaml claims.csv
    """
    from sandbox.party.contributing import Contributor
    from sandbox.party.forms import declaration_of, read_form, sources_of

    if len(declarations) != len(files):
        raise Malformed("give one file per declaration, in the same order")
    forms = [read_form(path) for path in declarations]
    tables = {declaration_of(form).dataset: (file, sources_of(form)) for form, file in zip(forms, files, strict=True)}
    with progress_bar(quiet=as_json) as bar:
        part = Contributor(client=_client(home_folder), tables=tables, progress=_shown(bar))
        _run(part, once, as_json)


@click.command("hold-key")
@home_option
@_once
@json_option
def hold_key(home_folder: Path, once: bool, as_json: bool) -> None:
    """Hold keys of joint totals: a fresh one per attempt, one opening per job, then the key is destroyed.

    \b
    Example: sandbox party hold-key --home ~/notary
    """
    from sandbox.party.key_holding import KeyHolder

    _run(KeyHolder(client=_client(home_folder)), once, as_json)


def _client(folder: Path) -> JointClient:
    from sandbox.party.home import Home
    from sandbox.party.joint_client import JointClient

    return JointClient(home=Home.open(folder))


def _shown(bar: Any) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def progress(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of or None)
        bar.update(tasks[what], completed=done, total=of or None)

    return progress


def _run(part: JointPart, once: bool, as_json: bool) -> None:
    if once:
        done = part.step()
        print_json({"done": done}) if as_json else click.echo(f"{done} joint totals waited")
        return
    part.serve(until_stopped())
