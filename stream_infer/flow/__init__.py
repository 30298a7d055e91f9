"""The decisions: what runs next, with whom, when, and what may be published. Time is an argument.

One record's way through this room: `partition.InputPartition.admit` -> `processor.Processor.submit`
(cache, equal work in flight, `lane`, `batcher`, `retry`) -> `InputPartition.finish` (`ordering`) ->
`InputPartition.take_publishable` (`offsets`). Nothing here does I/O, starts a task or reads a clock.
"""
