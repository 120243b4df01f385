"""Commands about manifests: deploy apply, status, undo."""

from typing import Annotated, Any

import typer

from splitctl.session import (
    ConfigPath,
    DryRun,
    Output,
    OutputFormat,
    answer,
    command_group,
    confirmed,
    progress,
)

deploy = command_group("Manifests to the cluster: apply, status, undo. Flags keep their values.")
Force = Annotated[
    bool,
    typer.Option("--force-conflicts", help="Take fields that other managers hold."),
]


@deploy.command("apply")
def deploy_apply(
    dry_run: DryRun = False,
    force_conflicts: Force = False,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Apply the environment's manifests and wait until they are served; else say why not."""

    def work(c: Any) -> Any:
        from rollout import deploy as room

        if dry_run:
            return room.plan(c, force=force_conflicts)
        return room.apply(c, force=force_conflicts, on_progress=progress)

    answer(work, config, output)


@deploy.command("status")
def deploy_status(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """What stands in the cluster against the manifests, and how far each rollout is."""

    def work(c: Any) -> Any:
        from rollout import deploy as room

        return room.status(c)

    answer(work, config, output)


@deploy.command("undo")
def deploy_undo(
    confirm: Annotated[
        str | None,
        typer.Option(
            "--confirm",
            metavar="OVERLAY",
            help="The overlay's name: delete what the last apply has made, too.",
        ),
    ] = None,
    dry_run: DryRun = False,
    force_conflicts: Force = False,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Bring back what stood before the last apply. Objects that it made stay unless confirmed."""

    def work(c: Any) -> Any:
        from rollout import deploy as room
        from rollout.deploy_planning import overlay

        if dry_run:
            return room.plan_undo(c)
        if confirm is not None:
            confirmed(overlay(c), confirm, "Delete the new objects of")
        return room.undo(
            c, delete_new=confirm is not None, force=force_conflicts, on_progress=progress
        )

    answer(work, config, output)
