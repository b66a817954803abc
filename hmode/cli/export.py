"""hmode export: a trained network as an ONNX file."""

from pathlib import Path

import click

from hmode.cli.count import load_network
from hmode.export import export
from hmode.outputs import prepare


@click.command(name="export")
@click.argument("weights", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("path", metavar="FILE.onnx", type=click.Path(path_type=Path))
def export_network(weights, path):
    """Write the network of RUN as FILE.onnx: pixels in, count and density map out, any size.

    It is written only if onnxruntime counts with it what PyTorch counts.
    """
    model = load_network(weights)
    prepare(path, "network")
    difference = export(model, path)
    click.echo(f"{path}: onnxruntime and PyTorch differ by {difference:.1e} of the largest value")
