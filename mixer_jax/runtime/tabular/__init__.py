"""Tables in CSV and Parquet files: one reader, one writer."""
