"""The process in which the server rehearses: one task from standard input, words about it to standard output, a line each.

It keeps itself within its bounds of memory and processor time, so that a rehearsal never starves the server beside it.
"""

import os
import resource
import sys

import msgspec

from firmware.errors import OtariaError
from server.campaigns.rehearsal import Task, Word
from simulator.rehearsal import rehearse
from simulator.virtual.world import FACTORY, Member

NICE = 10


def main(arguments: list[str]) -> int:
    """`MEMORY_BYTES SECONDS`: the bounds. Always ends with a word that has a result, or says why there is none."""
    memory, seconds = (int(text) for text in arguments)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        _say(_play(msgspec.json.decode(sys.stdin.buffer.read(), type=Task)))
    except OtariaError as error:
        _say(Word(kind=error.kind, text=error.text))
    except MemoryError:
        _say(
            Word(
                kind="too-large", text=f"The rehearsal took more than {memory >> 20} MiB; rehearse a smaller selection."
            )
        )
    return 0


def _play(task: Task) -> Word:
    done = 0

    def progress() -> None:
        nonlocal done
        done += 1
        _say(Word(done=done))

    fleet = [
        Member(id=one.id, hardware=one.hardware, labels=one.labels, week=one.week, version=one.version or FACTORY)
        for one in task.fleet
    ]
    found = rehearse(
        task.spec,
        fleet,
        begins=task.begins,
        days=task.days,
        seed=task.seed,
        replicas=task.replicas,
        image_bytes=task.image_bytes,
        progress=progress,
    )
    return Word(done=done, result=found)


def _say(word: Word) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
