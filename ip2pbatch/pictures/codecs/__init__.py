"""One module a file format: what of it is hashed, its metadata blocks, and pixels and blocks into a new file.

Which function is whose stands in `plan.formats.FORMATS`. Importing a module here brings no numpy: a folder is hashed
without it.
"""
