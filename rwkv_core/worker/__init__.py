"""The worker: a process that keeps models warm and segments for Slicer, so that torch never runs inside Slicer.

`python -m rwkv_core.worker` reads requests from its standard input and writes replies to its standard output, one JSON
object a line; arrays travel as files in a private folder; standard error is the log.

Both ends:        `protocol` and its like for models, files and interactive work (the messages), `content` (what they
                  are about), `schema` (dataclasses to JSON), `lines`, `arrays` (the folder), `errors`
Client's end:     `conversation` (what was asked and what came back), `launch` (start and kill), `client` (synchronous)
Worker's end:     `server` (the loop), `jobs` (the queue), `tasks` (what requests do), `models` (warm ones),
                  `housekeeping` (models on disk), `interactive` and `kept` (refining and adapting), `facts`,
                  `failures`, `process` (streams, signals, death of the parent)

The modules of the first two rows need the standard library and numpy alone, and import neither torch nor pydantic.
"""
