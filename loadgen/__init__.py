"""Load from outside: real texts on a schedule of their own. Knows the wire, and nothing behind it."""
