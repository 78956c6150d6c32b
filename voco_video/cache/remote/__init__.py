"""The frame cache on an object store: any place that fsspec reaches by a URL, such as ``s3://bucket/prefix``.

location.py    which places are stores, and where their local copies are kept
objects.py     whole objects and ranges of them: read, written, listed, deleted
layout.py      what an entry is made of on a store, and how ranges of it are checked
publishing.py  an entry on disk becomes one on a store; its manifest is written last
tier.py        frames that were read, on a local disk, bounded
reader.py      an entry on a store that is read by ranges
names.py, catalogue.py   names of entries, and entries found by words
cache.py       all of it, as the cache that users see
"""
