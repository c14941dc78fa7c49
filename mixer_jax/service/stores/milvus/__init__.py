"""The store of an index in Milvus: Lite, a server or a cluster."""
