"""Small adapters, one a file, of the systems that the engine is compared with; `bench.child` runs them.

An adapter has `load(setup) -> Run`, and `prepare(setup)` where something has to be made on disk first,
which happens in a process of its own. Each has the settings that its own documentation recommends.
"""
