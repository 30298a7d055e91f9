"""The demo: the whole service on one machine, watched live and audited, with events written for it."""
