"""The worker: a process that keeps models warm and segments for Slicer, so that torch never runs inside Slicer.

`python -m rwkv_core.worker` reads requests from its standard input and writes replies to its standard output, one JSON
object a line; arrays travel as files in a private folder; standard error is the log.

Both ends:        `protocol` (the messages, whole), `framing` (dataclasses to lines and back), `arrays` (the folder),
                  `errors` (and how they cross), `process` (start, kill, streams, death of the parent)
Client's end:     `conversation` (what was asked and what came back)
Worker's end:     `server` (the loop, and the table of what answers what), `jobs` (queue, progress), `loaded_models`,
                  `segmenting`, `interactive`, `machine`

What messages are about is in `rwkv_core.vocabulary`. The modules of both ends and of the client need the standard
library and numpy alone, and import neither torch nor pydantic.
"""
