"""Click events in, the clicks table of a click log out, on Apache Beam."""
