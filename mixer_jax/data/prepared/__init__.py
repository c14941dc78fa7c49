"""Prepared data sets: a table's samples in array_record files, checked once.

    PLACE/GROUP/VERSION/manifest.json   format, counts, sizes and checksums
    PLACE/GROUP/VERSION/skipped.csv     samples whose image cannot be decoded
    PLACE/GROUP/VERSION/images.npy      sizes, times and digests of the images
    PLACE/GROUP/VERSION/rows.npy        keys of the rows, to keep unchanged ones
    PLACE/GROUP/VERSION/sample_table/1.0.0/   the files that TFDS reads

A group belongs to a table and its split. A version is never changed: when rows
or images change, a new one replaces it.
"""
