"""hmode demo: a page in the browser that counts photographs."""

from pathlib import Path

import click

from hmode.cli.count import load_network
from hmode.cli.options import DEVICE, option
from hmode.device import resolve_device
from hmode.extras import need
from hmode.models import for_inference


@click.command()
@click.argument("weights", metavar="RUN", type=click.Path(path_type=Path))
@option(
    "--host",
    default="127.0.0.1",
    help="127.0.0.1: for this machine alone; 0.0.0.0: for all that can reach it.",
)
@click.option("--port", default=7860, show_default=True, type=click.IntRange(1, 65535))
@DEVICE
def demo(weights, host, port, device):
    """Show a page to drop photographs on, counted by the network of RUN, until Ctrl-C."""
    serve = need("hmode.demo", "demo", "The demo").serve
    model = for_inference(load_network(weights)).to(resolve_device(device))
    page = serve(model, host, port)
    click.echo(f"http://{host}:{port}")
    page.block_thread()
