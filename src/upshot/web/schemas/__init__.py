"""
Request bodies, query parameters and responses of the REST API, one file per resource.

`upshot.resources` declares the resources themselves. These files add what only the API has: requests, pages, and
results of mutations.
"""
