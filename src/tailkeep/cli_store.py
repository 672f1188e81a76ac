"""``tailkeep verify``, ``gc`` and ``retry``: the upkeep of a store. ``register`` puts them into the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tailkeep.cli_options import STORE, Json, StoreDir, store_text
from tailkeep.errors import CELLS_FAILED, BadInput

StoreFolder = Annotated[
    str, typer.Argument(metavar="STORE", parser=store_text, help="The folder of finished steps, or its URL.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("verify")(verify)
    app.command("gc")(gc)
    app.command("retry")(retry)


def verify(
    store: StoreFolder = STORE,
    keep: Annotated[bool, typer.Option("--keep", help="Leave damaged steps where they are.")] = False,
    json_out: Json = False,
) -> None:
    """Check every hash of a store. Damaged steps are moved aside, and done again by the next run."""
    from tailkeep.study import verify as checking

    found = checking.verify(store, move=not keep, on_progress=_progress if sys.stderr.isatty() else _silent)
    if json_out:
        typer.echo(json.dumps(found.plain(), indent=1))
    else:
        for damage in found.damages:
            where = "" if damage.moved is None else f"; moved to {damage.moved}"
            key = f" {damage.key[:12]}" if damage.key else ""
            typer.echo(f"damaged: {damage.kind}{key}: {'; '.join(damage.faults)}{where}")
        before = len(found.aside) - sum(damage.moved is not None for damage in found.damages)
        if before:
            typer.echo(f"{before} damaged were moved aside before; `tailkeep gc --damaged` removes them")
        typer.echo(
            f"{store}: {_many(found.steps, 'step')}, {_many(found.records, 'record')} and "
            f"{_many(found.imports, 'import')} checked "
            f"({_size(found.bytes)}), "
            f"{len(found.damages) or 'none'} damaged"
        )
        if found.damages:
            typer.echo("Run the study again: it does the steps that are missing now. Import damaged imports again.")
    if found.damages:
        raise typer.Exit(CELLS_FAILED)


def gc(
    store: StoreFolder = STORE,
    study: Annotated[
        list[str] | None,
        typer.Option("--study", metavar="NAME", help="Keep what this study needs, and no other's; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove damaged steps too.")] = False,
    json_out: Json = False,
) -> None:
    """Remove what no recorded study needs: old steps, unfinished work, leftovers of killed processes."""
    from tailkeep.study.gc import collect

    found = collect(store, study or (), dry_run, damaged)
    if json_out:
        typer.echo(json.dumps(found.plain(), indent=1))
        return
    verb = "would remove" if dry_run else "removed"
    for item in found.removed:
        typer.echo(f"{verb} {item.what}: {item.kind} {item.key[:12]} ({_size(item.bytes)})")
    if found.kept_damaged:
        typer.echo(f"kept {len(found.kept_damaged)} damaged steps; --damaged removes them")
    typer.echo(
        f"{store}: {verb} {len(found.removed)} ({_size(found.bytes)}), kept {found.kept_steps} steps of "
        f"{', '.join(found.studies) or 'no study'}"
    )


def retry(
    target: Annotated[str, typer.Argument(metavar="STUDY.yaml|STORE", help="A study file, or a whole store.")],
    store: StoreDir = STORE,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only steps that failed so: out_of_memory, hang, nan...")
    ] = None,
    json_out: Json = False,
) -> None:
    """Make failed steps pending, so that the next run tries them again."""
    from tailkeep.study import retry as pending
    from tailkeep.study.stores import is_url, open_store

    if is_url(target) or Path(target).is_dir():
        found = pending.retry(target, None, reason)
    elif Path(target).is_file():
        from tailkeep.study.spec import load_study

        found = pending.retry(store, load_study(Path(target), [])[0].name, reason)
    else:
        open_store(Path(target))  # which knows what becomes of a URL
        raise BadInput(f"{target}: no such study file or store")
    if json_out:
        typer.echo(json.dumps({"pending": [step.plain() for step in found]}, indent=1))
        return
    for step in found:
        typer.echo(f"pending: {step.label or step.key[:12]} (failed: {step.text})")
    typer.echo(f"{len(found) or 'no'} failed steps made pending; run the study to try them again")


def _progress(done: int, total: int) -> None:
    typer.echo(f"\r{done:,} of {total:,} steps", err=True, nl=done >= total)


def _silent(done: int, total: int) -> None:
    pass


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
