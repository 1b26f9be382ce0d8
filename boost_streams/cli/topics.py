"""``boost topics``: every topic, how far its readers are behind, and whether it is paused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby

import click

from boost_streams.cli.consumer_lag import Lags, PartitionLag, measure_lags
from boost_streams.cli.context import command_settings, show_json, show_table
from boost_streams.cli.pausing import pause, paused_topics, resume
from boost_streams.errors import BoostError
from boost_streams.settings import Settings
from db.pauses import Pause

_COLUMNS = ("topic", "partitions", "end offset", "committed", "lag", "lag (s)")


_each_partition = click.option(
    "--partitions", "each_partition", is_flag=True, help="A row for each partition, not only each topic."
)
_as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: every partition, the missing topics, the paused ones."
)


@click.group(invoke_without_command=True)
@_each_partition
@_as_json
@click.pass_context
def topics(context: click.Context, each_partition: bool, as_json: bool) -> None:
    """Show topics: partitions, end offsets, and the consumer group's lag in messages and seconds.

    The lag in seconds is the age of the oldest message that is not committed. KAFKA_BROKER and the other
    KAFKA_ settings say where to look.
    """
    if context.invoked_subcommand is None:
        _show(each_partition, as_json)


@topics.command("list")
@_each_partition
@_as_json
def list_topics(each_partition: bool, as_json: bool) -> None:
    """Show what `boost topics` alone does."""
    _show(each_partition, as_json)


topics.add_command(pause)
topics.add_command(resume)


def _show(each_partition: bool, as_json: bool) -> None:
    settings = command_settings()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it logs is in the error
    lags = asyncio.run(measure_lags(settings))
    paused = _paused_or_none()
    if as_json:
        show_json({**as_plain(lags), "paused": None if paused is None else [asdict(one) for one in paused]})
        return
    rows = lags.partitions if each_partition else list(per_topic(lags.partitions))
    columns = [("partition" if each_partition and name == "partitions" else name) for name in _COLUMNS]
    show_table(columns, [_row(one) for one in rows], right=columns[1:])
    groups = sorted({one.group for one in lags.partitions if one.group is not None})
    click.echo(f"consumer group: {', '.join(groups) or '-'}")
    for one in paused or ():
        click.echo(f"paused since {one.created_at:%Y-%m-%d %H:%M:%S}: {one.topic}: {one.reason}")
    if lags.missing:
        click.echo(f"not there yet, {_made_when(settings)}: {', '.join(lags.missing)}", err=True)


def _made_when(settings: Settings) -> str:
    """Say when a topic that is missing will be made: a worker makes none where the broker does so by itself."""
    if settings.boost_embedded_broker:
        return "the broker makes each when it is first used"
    return "made when a worker starts, or by the broker of boost dev when first used"


def _paused_or_none() -> list[Pause] | None:
    try:
        return paused_topics()
    except BoostError as error:
        click.echo(f"which topics are paused is not known: {error.message}", err=True)
        return None


def as_plain(lags: Lags) -> dict[str, object]:
    """Shape what was measured for JSON."""
    return {"partitions": [asdict(one) for one in lags.partitions], "missing": lags.missing}


def per_topic(partitions: Iterable[PartitionLag]) -> Iterator[PartitionLag]:
    """Add up the partitions of each topic; `partition` becomes their number, `seconds` that of the worst."""
    for topic, members in groupby(partitions, key=lambda one: one.topic):
        of_topic = list(members)
        committed = [one.committed for one in of_topic if one.committed is not None]
        lags = [one.lag for one in of_topic if one.lag is not None]
        seconds = [one.seconds for one in of_topic if one.seconds is not None]
        yield PartitionLag(
            topic=topic,
            partition=len(of_topic),
            end=sum(one.end for one in of_topic),
            group=of_topic[0].group,
            committed=sum(committed) if committed else None,
            lag=sum(lags) if lags else None,
            seconds=max(seconds) if seconds else None,
        )


def _row(one: PartitionLag) -> tuple[object, ...]:
    seconds = None if one.seconds is None else f"{one.seconds:.1f}"
    return one.topic, one.partition, one.end, one.committed, one.lag, seconds
