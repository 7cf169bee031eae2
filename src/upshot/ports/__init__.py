"""
Protocols of the stores and services that the stages use. `adapters` implements them.

Methods of stores are synchronous, and each is one transaction. The executor calls them in threads.
Every method may raise `Unavailable`. No method raises an error of a database or of Redis.
"""
