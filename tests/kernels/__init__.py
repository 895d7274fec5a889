"""Each kernel against its twin in the reference, in the simulator or on a GPU; the simulator itself; planted faults."""
