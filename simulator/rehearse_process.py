"""The process in which the server rehearses: one task from standard input, words about it to standard output, a line each.

It and those that it starts, one for each processor, share the bound of memory between them, and each keeps itself within its part
and within the bound of processor time: so a rehearsal never starves the server beside it.
"""

import os
import resource
import sys

import msgspec
from msgspec.structs import replace

from firmware.errors import OtariaError
from server.campaigns.rehearsal import Task, Word
from simulator.casting import Cast, member
from simulator.rehearsal import Effort, rehearse
from simulator.replicas import usual_processes
from simulator.sampling import MOST, sample

NICE = 10
ENOUGH = 0.8
"""The part of its time after which no round begins that would end later."""


def main(arguments: list[str]) -> int:
    """`MEMORY_BYTES SECONDS`: the bounds. Always ends with a word that has a result, or says why there is none."""
    memory, seconds = (int(text) for text in arguments)
    part = memory // (usual_processes(MOST) + 1)
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (part, part))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        _say(_play(msgspec.json.decode(sys.stdin.buffer.read(), type=Task), ENOUGH * seconds))
    except OtariaError as error:
        _say(Word(kind=error.kind, text=error.text))
    except MemoryError:
        text = f"The rehearsal took more than {memory >> 20} MiB; rehearse a smaller selection."
        _say(Word(kind="too-large", text=text))
    return 0


def _play(task: Task, limit_s: float) -> Word:
    sampled, part = sample(task.fleet, task.spec, task.seed)
    some = [member(one) for one in sampled]
    effort = Effort(
        replicas=task.replicas,
        most=task.most,
        limit_s=limit_s,
        processes=usual_processes(len(some)),
    )
    found = rehearse(
        task.spec,
        some,
        begins=task.begins,
        days=task.days,
        seed=task.seed,
        part=part,
        cast=Cast.of(sampled, task.frailties),
        image_bytes=task.image_bytes,
        effort=effort,
        told=lambda done, found: _say(Word(done=done, result=replace(found, basis=task.basis) if found else None)),
    )
    return Word(done=found.replicas, result=replace(found, basis=task.basis), is_last=True)


def _say(word: Word) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
