"""The furniture tables: catalog pictures, and other views of their products."""
