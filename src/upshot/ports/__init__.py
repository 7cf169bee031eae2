"""
What the stages need from outside, as protocols with few methods. `adapters` implements them.

Methods of stores are synchronous, and each is one transaction. The executor calls them in threads.
Every method may raise `Unavailable`. No method raises an error of a database or of Redis.
"""
