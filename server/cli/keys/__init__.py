"""`otaria keys`: ceremonies. Who may sign what in a catalogue, changed by proposals that signers sign apart from each other."""

import click

from server.cli.keys.authority import fleet_ca
from server.cli.keys.changing import add, bins, raise_epoch, remove, renew, rotate
from server.cli.keys.making import generate, init, public
from server.cli.keys.moving import endpoints
from server.cli.keys.showing import show
from server.cli.keys.signing import apply, sign


@click.group()
def keys() -> None:
    """Make, change and show the keys of a catalogue.

    Example: otaria keys init acme --product pump
    """


for _command in (
    init,
    generate,
    public,
    add,
    remove,
    rotate,
    renew,
    raise_epoch,
    bins,
    endpoints,
    fleet_ca,
    sign,
    apply,
    show,
):
    keys.add_command(_command)
