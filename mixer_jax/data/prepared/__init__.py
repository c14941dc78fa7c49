"""Prepared data sets: a table's samples in array_record files, checked once.

    PLACE/GROUP/VERSION/manifest.json   format, counts, sizes and checksums
    PLACE/GROUP/VERSION/opened.json     the table's files when last opened
    PLACE/GROUP/VERSION/skipped.csv     samples whose image cannot be decoded
    PLACE/GROUP/VERSION/images.arrow    paths of the images
    PLACE/GROUP/VERSION/images.npy      their sizes, times and digests
    PLACE/GROUP/VERSION/rows.npy        row keys, to detect unchanged rows
    PLACE/GROUP/VERSION/training/       columns of the samples to train on
    PLACE/GROUP/VERSION/sample_table/1.0.0/   the files that TFDS reads

A group belongs to a table and its split. The samples of a version are never
changed: when rows or images change, a new version replaces it.
"""
