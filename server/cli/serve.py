"""`otaria serve`: the server."""

import asyncio
import logging
from dataclasses import asdict
from pathlib import Path

import click

from firmware.logs import log_to_stderr
from server.app import Running, run
from server.cli.output import emit, json_option
from server.config import load_settings
from server.interpreter import prepare_interpreter


@click.command()
@click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="otaria.toml",
    show_default=True,
    help="The settings.",
)
@click.option("--verbose", is_flag=True, help="Log more, to stderr.")
@json_option
def serve(config: Path, verbose: bool, as_json: bool) -> None:
    """Run the server until it is told to stop (SIGTERM or Ctrl-C).

    Example: otaria serve --config otaria.toml
    """
    settings = load_settings(config)
    log_to_stderr(logging.INFO if verbose else logging.WARNING)

    def started(running: Running) -> None:
        if running.role == "standby":
            text = f"Otaria stands by; it takes over when the server that leads is gone for {settings.lease_s:g} s."
            emit(asdict(running), as_json=as_json, text=text)
            return
        text = (
            f"Otaria is running.\n  pages    {running.people_url}/\n  API      {running.people_url}/api/v1\n"
            f"  devices  {running.devices_url}\n  MQTT     {running.mqtt_host}:{running.mqtt_port} ({running.broker_kind})\n"
            f"  token    {running.token_file}"
        )
        emit(asdict(running), as_json=as_json, text=text)

    prepare_interpreter()
    asyncio.run(run(settings, started=started))
