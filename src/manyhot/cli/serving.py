"""The verb that answers over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyhot.cli.apps import app


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, a bundle, or an exported file.")],
    host: Annotated[str, typer.Option(help="Address to serve on; any but this machine's own needs --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8322,
    token: Annotated[
        str | None, typer.Option(envvar="MANYHOT_TOKEN", help="What requests must show: Authorization: Bearer TOKEN.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Pictures that go through the model together.")] = 32,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=10_000, help="That a picture waits for others which are being decoded.")
    ] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Pictures taken at a time; further ones are answered 503.")] = 256,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures of a request.")] = 64,
    max_body: Annotated[float, typer.Option(min=0.001, help="MiB of a request.")] = 32.0,
    max_pixels: Annotated[float, typer.Option(min=0.001, max=100, help="Megapixels of a picture.")] = 100.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds in which a request must arrive.")] = 60.0,
    backend: Annotated[
        str | None, typer.Option(help="torch, onnxruntime or openvino; else what predict --autotune found, or torch.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where the network runs: cpu, cuda, or another of it.")] = None,
) -> None:
    """Answer pictures with scores, over HTTP."""
    from manyhot.inference.predict import load
    from manyhot.serving.limits import Limits
    from manyhot.serving.server import serve as run_server

    limits = Limits(
        body=int(max_body * 2**20),
        pixels=int(max_pixels * 1e6),
        pictures=min(max_pictures, queue),
        queue=queue,
        seconds=timeout,
        batch=max_batch,
        wait=max_wait_ms / 1000,
    )
    signum = run_server(
        load(model, backend=backend, device=device),
        host=host,
        port=port,
        token=token,
        limits=limits,
        ready=lambda address: typer.echo(f"serving: {address}  (Ctrl-C ends it)"),
    )
    raise typer.Exit(128 + signum)
