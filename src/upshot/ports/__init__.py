"""
What the stages ask of the world, as Protocols of a few verbs; `adapters` makes them real.

Store verbs are synchronous and each is one transaction; the engine calls them off its event loop.
Every one may raise `Unavailable`; none lets an error of the database or of Redis through.
"""
